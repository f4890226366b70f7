"""Contexts above a sliding window: the cache of a layer that has one is a ring."""

from dataclasses import replace

import numpy as np
import pytest
from executors import check_rtl, error, functional, hardware
from tiny_models import MODELS, RTL, ids_of, random_model

from wordline.compiler.model import Model
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import Config
from wordline.rtl.float_ref import row_sums
from wordline.sim import cycles
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import BatchGenerator, Generation, Generator, compare
from wordline.sim.hardware_model import HardwareModel, _ring
from wordline.sim.reference import float_logits
from wordline.sim.rtl import RtlMachine

WINDOW, PROMPT, TOKENS = 8, 13, 8
SHAPES = {
    "every layer": replace(MODELS["mistral"], sliding_window=WINDOW),
    "the first layer": replace(MODELS["gemma3"], sliding_window=WINDOW),
    "the last layer": replace(MODELS["qwen2"], sliding_window=WINDOW, local_layers=(1,)),
}


def generator(model: Model, config: Config) -> Generator:
    return Generator(model, compile_model(model, config), [int(i) for i in ids_of(model.config, PROMPT)], TOKENS)


def generated(model: Model, config: Config) -> Generation:
    return functional(generator(model, config), config)


@pytest.mark.parametrize("name", SHAPES)
def test_the_program_sees_what_the_float_model_sees(name):
    model = random_model(SHAPES[name])
    run = generated(model, hardware())
    rows = slice(run.prompt - 1, -1)
    exact = float_logits(model, run.tokens)[rows]
    assert error(run.logits, exact) < 0.04
    for other in (0, WINDOW - 1, WINDOW + 1):
        seen = random_model(replace(SHAPES[name], sliding_window=other))
        assert error(float_logits(seen, run.tokens)[rows], exact) > 0.08


def test_sums_are_formed_in_the_ring_s_order():
    """Token t lies in place t mod window until the next one replaces it. From 512 places on the order shows in the
    softmax's sum, one row in twenty, though seldom in a logit behind it."""
    window, first, rows = 512, 500, 64
    e = np.random.default_rng(3).exponential(1.0, (rows, first + rows)).astype(np.float32)
    ring = np.zeros((rows, window), np.float32)
    for row in range(rows):
        for token in range(first + row + 1):
            ring[row, token % window] = e[row, token]
    assert np.array_equal(_ring(e, first, window), ring)
    seen = np.array([[0 <= first + row - token < window for token in range(first + rows)] for row in range(rows)])
    assert (row_sums(ring) != row_sums(np.where(seen, e, np.float32(0)))).any()


@pytest.mark.parametrize("name", SHAPES)
def test_the_batched_model_is_the_functional_simulator(name):
    """Where the ring has been filled several times."""
    model, cfg = random_model(replace(SHAPES[name], context=64)), hardware()
    program = compile_model(model, cfg)
    ours = Generator(model, program, [int(i) for i in ids_of(model.config, 3 * WINDOW + 3)], 6)
    run = ours.functional(FunctionalMachine(cfg), lambda tokens: None)
    batched = HardwareModel(model, cfg.types).logits(run.tokens)[run.prompt - 1 : -1]
    assert np.array_equal(batched.view(np.uint32), run.logits.view(np.uint32))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("rows", [3, 8])
def test_a_prompt_in_steps_of_several_tokens(name, rows):
    """A prompt that reaches into the ring: behind the window its tokens come one by one."""
    model = random_model(SHAPES[name])
    one, other = generated(model, hardware()), generated(model, hardware(rows, "memory.vector_floats=32768"))
    assert compare(one, other).bits == 0, compare(one, other).where


def test_a_batch():
    model = random_model(SHAPES["the first layer"])
    cfg = hardware(2)
    prompts = [[int(i) for i in ids_of(model.config, n)] for n in (4, 11)]
    together = BatchGenerator(model, compile_model(model, cfg, batch=2), prompts, TOKENS).run(FunctionalMachine(cfg))
    program = compile_model(model, cfg)
    for prompt, run in zip(prompts, together, strict=True):
        alone = functional(Generator(model, program, prompt, TOKENS), cfg)
        assert compare(alone, run).bits == 0, compare(alone, run).where


@pytest.mark.parametrize("name", SHAPES)
def test_on_the_rtl(name):
    check_rtl(generator(random_model(SHAPES[name]), RTL), RTL, RtlMachine(RTL))


def test_bytes_stay_the_same_behind_the_window():
    """A decode step behind the window costs what it costs at its end."""
    cfg = hardware()
    for name in ("every layer", "the first layer"):
        program = compile_model(random_model(replace(SHAPES[name], sliding_window=64, context=256)), cfg)
        beats = [cycles.run(program, cfg, (1, 1, start, -1)).activity["beats"].sum() for start in (3, 63, 66, 200)]
        assert beats[0] < beats[1] <= beats[2] <= beats[3]
        assert (beats[1] == beats[3]) == (name == "every layer")


def test_what_is_not_supported_says_so():
    with pytest.raises(CompileError, match="sliding_window = 12 is no power of two"):
        compile_model(random_model(replace(MODELS["mistral"], sliding_window=12)), hardware())
    with pytest.raises(CompileError, match='types.kv = "int4" seals groups of keys'):
        compile_model(random_model(SHAPES["every layer"]), hardware(1, "types.kv=int4", "types.kv_group=16"))
    with pytest.raises(ValueError, match="9 tokens are above its sliding_window = 8, which keys of 4 bits"):
        model = random_model(SHAPES["every layer"])
        HardwareModel(model, hardware().types, kv_bits=4).logits(ids_of(model.config, 9))
