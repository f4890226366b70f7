"""Sparsity: an array that leaves groups or single weights out gives the bits of the dense product with zeros."""

from dataclasses import replace

import numpy as np
import pytest

from wordline.compiler.model import Model, load_model
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import Config, ConfigError
from wordline.sim import cycles, verify
from wordline.sim.evaluate import held_out_accuracy
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generation, Generator, compare
from wordline.sim.rtl import RtlMachine

HARDWARE = "serial-2x16x8-bus128"  # of `verify`, where it is compiled too


def config(weights: str = "int4_asym", *, sparse: bool = True, **types) -> Config:
    base = verify.hardware_config(HARDWARE)
    types = replace(base.types, weights=weights, head="int8", **{"group_size": 32, **types})
    decodes = tuple(dict.fromkeys([*base.array.weights, weights]))
    return replace(base, array=replace(base.array, sparse=sparse, weights=decodes), types=types)


@pytest.fixture(scope="module")
def model():
    return load_model("austen")


def generator(model, config: Config) -> Generator:
    return Generator(model, compile_model(model, config), model.tokenizer.encode("It was").ids, 2)


def functional(model, config: Config) -> Generation:
    return generator(model, config).functional(FunctionalMachine(config), lambda tokens: None)


@pytest.mark.parametrize("weights", ["int4_asym", "ternary", "mxfp4"])
def test_missing_groups_are_zeros(model, weights):
    types = {"keep": 0.5, "keep_channels": 16}
    sparse, dense = config(weights, **types), config(weights, sparse=False, **types)
    assert compare(functional(model, sparse), functional(model, dense)).bits == 0
    a, b = (generator(model, c).program for c in (sparse, dense))
    assert a.memory_size < b.memory_size
    ours, theirs = (cycles.run(p, c, generator(model, c).arguments) for p, c in ((a, sparse), (b, dense)))
    assert ours.busy["MATMUL"] < theirs.busy["MATMUL"] and ours.busy["STREAM"] < theirs.busy["STREAM"]


def test_rtl_equals_functional(model):
    sparse = config(keep=0.5, keep_channels=16)
    ours = functional(model, sparse)
    run = generator(model, sparse).rtl(RtlMachine(sparse), lambda tokens, cycles: None)
    assert compare(ours, run).bits == 0 and np.ptp(ours.logits) > 1


def test_a_tile_has_the_groups_that_any_channel_keeps(model):
    """With channels that keep their own groups a tile leaves out next to nothing."""
    sizes = [compile_model(model, config(keep=0.25, keep_channels=n)).memory_size for n in (16, 8, 1)]
    assert sizes[0] < sizes[1] <= sizes[2] <= compile_model(model, config()).memory_size


def test_pruning_by_windows_keeps_n_of_m(model):
    whole, windows = (compile_model(model, config(keep=0.5, keep_channels=16, keep_window=w)) for w in (0, 4))
    assert whole.memory_size == windows.memory_size
    assert held_out_accuracy(model, config(keep=0.5).types, windows=1).relative > 1.05


def test_rows_must_be_whole_groups(model):
    shape = Model(replace(model.config, ffn=264), {}, None, model.folder)
    with pytest.raises(CompileError, match="down: a sparse array takes rows of whole groups; K = 264"):
        compile_model(shape, config(keep=0.5))


@pytest.mark.parametrize("weights", ["int4_asym", "bitmod_fp4"])
def test_missing_weights_are_zeros(model, weights):
    """2:4, where an array with windows of 4, one with windows of 8 and a dense one give the same bits."""
    types = {"nm": "2:4", "nm_stride": 8, "keep_channels": 16, "group_size": 64}
    nm = config(weights, **types)
    wide, dense = (replace(nm, array=replace(nm.array, window=window)) for window in (8, 0))
    runs = [functional(model, c) for c in (nm, wide, dense)]
    assert compare(runs[0], runs[2]).bits == compare(runs[1], runs[2]).bits == 0
    a, b, c = (generator(model, c).program for c in (nm, wide, dense))
    assert a.memory_size < b.memory_size < c.memory_size  # picks of 2 bits, of 4 bits, all weights
    ours, theirs = (cycles.run(p, c, generator(model, c).arguments) for p, c in ((a, nm), (c, dense)))
    assert ours.busy["MATMUL"] < theirs.busy["MATMUL"] and ours.busy["STREAM"] < theirs.busy["STREAM"]


def test_rtl_without_single_weights_equals_functional_in_the_model_s_cycles(model):
    nm = config(nm="1:4", nm_stride=8, keep_channels=16)
    ours = functional(model, nm)
    made, machine = generator(model, nm), RtlMachine(nm)
    assert compare(ours, made.rtl(machine, lambda tokens, cycles: None)).bits == 0 and np.ptp(ours.logits) > 1
    memory = verify.functional_memory(made.program, nm, made.arguments)
    timed = cycles.run(made.program, nm, made.arguments, memory=memory, record=True)
    assert verify.compare(timed, machine.run(made.program, made.arguments, record=True)) == ""


def test_any_pattern_runs_on_any_window(model):
    """Patterns belong to the types: where they do not suit the array, tiles hold more, and the bits are the same."""
    runs, sizes = [], []
    for window, channels, stride in ((4, 8, 8), (4, 16, 16), (2, 16, 8), (4, 16, 8)):
        nm = config(nm="1:4", nm_stride=stride, keep_channels=channels)
        nm = replace(nm, array=replace(nm.array, window=window))
        dense = replace(nm, array=replace(nm.array, window=0))
        runs.append(compare(functional(model, nm), functional(model, dense)).bits)
        sizes.append(compile_model(model, nm).memory_size)
    assert runs == [0] * 4 and sizes[3] < min(sizes[:3]) and max(sizes[:3]) < compile_model(model, config()).memory_size


def test_what_n_of_m_cannot_be_done_with_is_refused(model):
    with pytest.raises(CompileError, match=r"array.lanes = 32 elements of K; K = 128, types.group_size = 16"):
        compile_model(model, replace(config("int4"), types=replace(config("int4").types, group_size=16, nm="2:4",
                                                                   nm_stride=8, keep_channels=16)))
    with pytest.raises(CompileError, match="types.nm = 2:4 leaves out single weights, and pow2x3 has no zero"):
        held_out_accuracy(model, config("pow2x3", nm="2:4").types, windows=1)
    for nm in ("4:2", "4:4", "2/4", "1:3", "2:4:8"):
        with pytest.raises(ConfigError, match='"N:M" with M 2, 4, 8 or 16 and N below it'):
            config(nm=nm)
    with pytest.raises(ConfigError, match="types.keep = 0.5 prunes groups already"):
        config(nm="2:4", keep=0.5)
