"""The cycle model against the Verilated RTL: every instruction's first and last cycle, every counter."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from wordline.compiler.asm import assemble
from wordline.compiler.model import load_model
from wordline.compiler.transformer import TransformerCompiler, compile_model
from wordline.rtl.column import ColumnPlan
from wordline.rtl.config import load_config
from wordline.rtl.isa import Unit
from wordline.sim import cycles, dram, verify
from wordline.sim.generate import Generator

CASES = 60


@pytest.fixture(scope="module")
def machines():
    return verify.Machines()


@pytest.mark.parametrize("hardware", [*verify.HARDWARE, "random-0"])
def test_random_programs_take_the_same_cycles(machines, hardware):
    units = dict.fromkeys((u.name for u in Unit), 0)
    for seed in range(CASES):
        case = verify.random_case(hardware, seed)
        assert verify.difference(case, machines) == "", (hardware, seed)
        program = verify.build_program(case.config, case.blocks, seed)
        for name, n in cycles.run(program, case.config).ended.items():
            units[name] += n
    assert all(n > CASES for n in units.values()), units  # the programs exercise every unit


@pytest.mark.parametrize("kind", ["fixed", "ddr4-2400", "sdr-133"])
@pytest.mark.parametrize("hardware", list(verify.HARDWARE)[:2])
def test_a_compiled_transformer_takes_the_same_cycles(machines, hardware, kind):
    base, overrides = verify.HARDWARE[hardware]
    config = load_config(base, [*overrides, f"dram.kind={kind}"])
    model = load_model("austen")
    program = compile_model(model, config)
    generator = Generator(model, program, model.tokenizer.encode("It was a truth").ids, 2)
    memory = verify.functional_memory(program, config, generator.arguments)
    machine = machines[config]
    for stalls in (0.0, 0.3):
        ours = cycles.run(program, config, generator.arguments, memory=memory, stalls=stalls, seed=5, record=True)
        theirs = machine.run(program, generator.arguments, stalls=stalls, seed=5, record=True)
        assert verify.compare(ours, theirs) == ""
        assert (ours.dram.commands["RD"] > 0) == (kind != "fixed")


def test_attention_of_all_heads_at_once_takes_the_same_cycles(machines):
    for seed in (89, 99):
        case = verify.random_case("mac-8x8-bus64", seed)
        model, _, _ = verify.transformer(case)
        types = replace(case.config.types, weights="int8", group_size=0, acts=8, kv="int8")
        assert TransformerCompiler(model, replace(case.config, types=types)).places.together
        assert verify.difference(case, machines) == ""


@pytest.mark.slow
def test_64_tokens_of_the_embedded_model_take_the_same_cycles(machines):
    config = load_config("bitmod", ["dram.kind=lpddr4-3200"])
    model = load_model("austen")
    program = compile_model(model, config)
    generator = Generator(model, program, model.tokenizer.encode("It was a truth").ids, 64)
    memory = verify.functional_memory(program, config, generator.arguments)
    ours = cycles.run(program, config, generator.arguments, memory=memory, record=True)
    theirs = machines[config].run(program, generator.arguments, record=True)
    assert verify.compare(ours, theirs) == ""
    assert len(ours.events) > 50_000


class LatePe(ColumnPlan):
    """A processing element that is one cycle later than it is."""

    def timing(self, kind):
        timing = super().timing(kind)
        return replace(timing, latency=timing.latency + 1)


def quick_dram(config):
    """tRCD one clock too short."""
    params = dram.of_config(config)
    if params:
        params.tRCD -= 1
    return params


@pytest.mark.parametrize(("name", "wrong"), [
    ("ColumnPlan", LatePe), ("PREPARE", cycles.PREPARE + 1), ("ADD", cycles.ADD + 1),
    ("dram", SimpleNamespace(**vars(dram) | {"of_config": quick_dram})),
], ids=["processing element", "vector operation", "sum", "tRCD"])
def test_one_wrong_cycle_is_found(machines, monkeypatch, name, wrong):
    hardware = next(iter(verify.HARDWARE))
    cases = [verify.random_case(hardware, seed) for seed in range(20)]
    assert not any(verify.difference(case, machines) for case in cases)
    monkeypatch.setattr(cycles, name, wrong)
    assert any(verify.difference(case, machines) for case in cases)


def test_a_wrong_latency_is_found_and_the_case_made_small(machines, monkeypatch):
    monkeypatch.setattr(cycles, "DRAIN_LATENCY", cycles.DRAIN_LATENCY + 1)
    hardware = next(iter(verify.HARDWARE))
    failing = next(case for case in (verify.random_case(hardware, seed) for seed in range(CASES))
                   if len(case.blocks) > 8 and verify.difference(case, machines))
    small = verify.shrink(failing, lambda case: bool(verify.difference(case, machines)))
    assert len(small.blocks) <= 2 and small.stalls == 0
    assert "MATMUL" in verify.difference(small, machines)
    monkeypatch.undo()
    assert verify.difference(small, machines) == ""


def test_a_case_survives_its_file(tmp_path):
    case = verify.random_case(next(iter(verify.HARDWARE)), 3)
    case.save(tmp_path / "case.json")
    loaded = verify.Case.load(tmp_path / "case.json")
    assert loaded == case
    assert np.array_equal(verify.build_program(case.config, case.blocks).instructions,
                          verify.build_program(loaded.config, loaded.blocks).instructions)


def test_a_program_that_hangs_is_reported():
    config = load_config("ulx3s")
    symbol = ('.symbol {"address": 0, "dtype": "instruction", "layout": "linear", "name": "program", '
              '"shape": [64], "size": 2048}\n')
    program = assemble(symbol + "MATMUL rows=1 tiles=1 steps=8 groups=1 planes=8\nCONTROL operation=END\n")
    program.hardware = config.hardware_hash()
    with pytest.raises(cycles.CyclesError, match="weights that nobody streams"):
        cycles.run(program, config)
    endless = assemble(symbol + "again:\nCONTROL operation=BEQ target=again\n")
    endless.hardware = config.hardware_hash()
    with pytest.raises(cycles.CyclesError, match="no end"):
        cycles.run(endless, config, max_cycles=10_000)


def test_refresh_is_a_cause_of_its_own():
    config = load_config("ulx3s", ["dram.kind=ddr4-2400", "clock_mhz=1000"])
    model = load_model("austen")
    program = compile_model(model, config)
    generator = Generator(model, program, [5], 1)
    result = cycles.run(program, config, generator.arguments)
    idle = cycles.run(program, replace(config, dram=replace(config.dram, kind="fixed")), generator.arguments)
    assert result.causes["STREAM"]["REFRESH"] > 0 == idle.causes["STREAM"]["REFRESH"]
    assert result.dram.commands["REF"] == result.cycles * 1000 // 833 // 9360
