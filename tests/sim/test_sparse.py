"""Group sparsity: an array that leaves groups out gives the bits of the dense product with zeros."""

from dataclasses import replace

import numpy as np
import pytest

from wordline.compiler.model import Model, load_model
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import Config
from wordline.sim import cycles, verify
from wordline.sim.evaluate import held_out_accuracy
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generation, Generator, compare
from wordline.sim.rtl import RtlMachine

HARDWARE = "serial-2x16x8-bus128"  # of `verify`, where it is compiled too


def config(weights: str = "int4_asym", *, sparse: bool = True, **types) -> Config:
    base = verify.hardware_config(HARDWARE)
    types = replace(base.types, weights=weights, head="int8", group_size=32, **types)
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
