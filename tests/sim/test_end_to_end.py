"""The embedded model on the Verilated RTL: same bits as the functional simulator, whatever the hardware."""

import json
from dataclasses import replace

import numpy as np
import pytest

from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.rtl.config import Config, TypesConfig, load_config
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generation, Generator, compare
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.rtl import RtlMachine

PROMPT = "It was a"
TYPES = [TypesConfig(weights=w, acts=a, kv=kv) for w, a, kv in [
    ("bitmod_fp4", 8, "int8"), ("bitmod_fp3", 8, "int8"), ("int8", 8, "int8"), ("int4", 8, "int8"),
    ("bitmod_fp4", 16, "int4"), ("bitmod_fp3", 16, "int8"), ("int8", 16, "int4"), ("int4", 8, "int4"),
    ("int5", 8, "int8"), ("int1", 8, "int8"), ("mxfp4", 8, "int8"), ("nvfp4", 8, "int8"), ("pow2x3", 8, "int8"),
]]
WEIGHTS = f"array.weights={json.dumps(sorted({t.weights for t in TYPES}))}"

#: One token and 1024 lanes at once, and a bus that feeds them.
WIDE = ("array.rows=1", "array.cols=32", "array.lanes=32", "bus.data_bits=1024")

#: For which ulx3s has room with a cache of 4 bits.
CONTEXT = 192

# Two families, two shapes: rows, columns, lanes, bus, vector lanes and drain all differ.
HARDWARE = {
    "mac": load_config("ulx3s", ["array.act_bits=16", WEIGHTS, "array.group_min=16"]),
    "bit_serial": load_config("bitmod", ["array.rows=2", "array.cols=16", "array.lanes=8", WEIGHTS,
                                         "array.group_min=16"]),
}


@pytest.fixture(scope="module")
def model():
    return load_model("austen")


@pytest.fixture(scope="module")
def machines():
    return {name: RtlMachine(config) for name, config in HARDWARE.items()}


def make(model, config: Config, types: TypesConfig, tokens: int, prompt: str = PROMPT) -> tuple[Generator, Config]:
    config = replace(config, types=types)
    program = compile_model(model, config, context=CONTEXT)
    return Generator(model, program, model.tokenizer.encode(prompt).ids, tokens), config


def functional(model, config: Config, types: TypesConfig, tokens: int, prompt: str = PROMPT) -> Generation:
    generator, config = make(model, config, types, tokens, prompt)
    return generator.functional(FunctionalMachine(config), lambda tokens: None)


@pytest.mark.parametrize("types", TYPES, ids=lambda t: f"{t.weights}-a{t.acts}-kv{t.kv}")
def test_rtl_equals_functional_and_no_number_depends_on_the_hardware(model, machines, types):
    runs = []
    for name, config in HARDWARE.items():
        generator, _ = make(model, config, types, 3)
        runs.append(functional(model, config, types, 3))
        runs.append(generator.rtl(machines[name], lambda tokens, cycles: None))
    for run in runs[1:]:
        assert compare(runs[0], run).bits == 0, compare(runs[0], run).where
    assert runs[0].logits.shape == (3, 512) and np.ptp(runs[0].logits) > 1


@pytest.mark.parametrize("name", HARDWARE)
def test_stalls_change_no_bit(model, machines, name):
    types = TYPES[4]
    generator, config = make(model, HARDWARE[name], types, 2)
    calm = generator.rtl(machines[name], lambda tokens, cycles: None)
    for seed in (1, 2):
        stalled = generator.rtl(machines[name], lambda tokens, cycles: None, stalls=0.4, seed=seed)
        assert compare(calm, stalled).bits == 0
        assert stalled.result.cycles > calm.result.cycles
    assert compare(calm, functional(model, config, types, 2)).bits == 0


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_prefill_in_any_chunks_gives_the_same_bits(model, rows):
    config = load_config("bitmod", [f"array.rows={rows}", "memory.vector_floats=16384",
                                    "memory.matmul_floats=16384", "memory.load_floats=4096"])
    prompt = "It is a truth universally acknowledged, that a single man"
    one = functional(model, HARDWARE["mac"], TYPES[0], 3, prompt)
    assert compare(one, functional(model, config, TYPES[0], 3, prompt)).bits == 0


@pytest.mark.parametrize("types", [TYPES[0], TYPES[6]], ids=lambda t: t.weights)
def test_the_batched_model_is_the_functional_simulator(model, types):
    run = functional(model, HARDWARE["bit_serial"], types, 5)
    logits = HardwareModel(model, types).logits(run.tokens)[run.prompt - 1 : -1]
    assert np.array_equal(logits.view(np.uint32), run.logits.view(np.uint32))


def test_end_token_stops_the_program(model):
    first = functional(model, HARDWARE["mac"], TYPES[0], 6)
    stop = int(first.tokens[first.prompt + 2])
    assert stop not in first.tokens[: first.prompt + 2]
    generator, config = make(model, HARDWARE["mac"], TYPES[0], 6)
    generator = Generator(model, generator.program, generator.prompt, 6, stop=stop)
    short = generator.functional(FunctionalMachine(config), lambda tokens: None)
    assert list(short.tokens) == list(first.tokens[: first.prompt + 3])


@pytest.mark.slow
@pytest.mark.parametrize("types", TYPES[:5], ids=lambda t: f"{t.weights}-a{t.acts}-kv{t.kv}")
def test_64_tokens(model, machines, types):
    for name, config in HARDWARE.items():
        generator, _ = make(model, config, types, 64)
        rtl = generator.rtl(machines[name], lambda tokens, cycles: None)
        assert compare(rtl, functional(model, config, types, 64)).bits == 0


@pytest.mark.slow
@pytest.mark.timeout(5400)  # 10 minutes on two cores of its own, most of them the RTL's
@pytest.mark.parametrize("sets", [(), WIDE], ids=["bitmod", "1024-lanes"])
def test_smollm2_on_the_rtl(sets):
    """A real model of 135 million parameters, with and without 1024 lanes (`wordline models get smollm2`)."""
    if not CATALOGUE["smollm2"].fetched:
        pytest.skip("wordline models get smollm2")
    model, config = load_model("smollm2"), load_config("bitmod", list(sets))
    program = compile_model(model, config, context=256)
    generator = Generator(model, program, model.tokenizer.encode("The capital of France is").ids, 2)
    rtl = generator.rtl(RtlMachine(config), lambda tokens, cycles: None)
    assert compare(rtl, generator.functional(FunctionalMachine(config), lambda tokens: None)).bits == 0
    assert model.tokenizer.decode([int(t) for t in rtl.tokens]).startswith("The capital of France is Paris")
