"""A batch of sequences gives each of them the bits that it has alone."""

from dataclasses import replace

import pytest
from tiny_models import LLAMA, MODELS, RTL, ids_of, random_model

from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import Config, load_config
from wordline.sim import cycles, verify
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import BatchGenerator, Generation, Generator, compare
from wordline.sim.rtl import RtlMachine

TOKENS = 4


def prompts(vocab: int, batch: int) -> list[list[int]]:
    """Of different lengths, the shortest in the middle."""
    ids = [int(i) for i in ids_of(replace(LLAMA, vocab=vocab), 30)]
    return [ids[:5], ids[5:7], ids[7:15]][:batch]


def batched(model, config: Config, batch: int, **options) -> BatchGenerator:
    program = compile_model(model, config, batch=batch, **options)
    return BatchGenerator(model, program, prompts(model.config.vocab, batch), TOKENS)


def alone(model, config: Config, batch: int) -> list[Generation]:
    program = compile_model(model, config)
    return [Generator(model, program, prompt, TOKENS).functional(FunctionalMachine(config), lambda tokens: None)
            for prompt in prompts(model.config.vocab, batch)]


@pytest.mark.parametrize("name", MODELS)
def test_every_architecture_in_a_batch(name):
    config = load_config("bitmod", ["array.rows=3", "types.weights=int8", "types.acts=16", "types.kv=int8",
                                    "memory.vector_floats=16384", "memory.program=4096"])
    model = random_model(MODELS[name])
    together = batched(model, config, 3).run(FunctionalMachine(config))
    for one, other in zip(alone(model, config, 3), together, strict=True):
        assert compare(one, other).bits == 0, compare(one, other).where


@pytest.fixture(scope="module")
def machine():
    return RtlMachine(RTL)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "mlgru"])
def test_on_the_rtl(machine, name):
    # A vocabulary that takes several parts of the output head.
    model = random_model(replace(MODELS[name], vocab=600))
    generator = batched(model, RTL, 2)
    for one, other in zip(alone(model, RTL, 2), generator.run(machine), strict=True):
        assert compare(one, other).bits == 0, compare(one, other).where
    rtl = machine.run(generator.program, generator.arguments, record=True)
    memory = verify.functional_memory(generator.program, RTL, generator.arguments)
    ours = cycles.run(generator.program, RTL, generator.arguments, memory=memory, record=True)
    assert verify.compare(ours, rtl) == ""


def test_a_batch_is_at_most_the_rows_of_the_array():
    with pytest.raises(CompileError, match="batch = 3: every sequence takes a row of the array, array.rows = 2"):
        compile_model(random_model(LLAMA), RTL, batch=3)


def test_prompts_must_suit_the_program():
    model = random_model(LLAMA)
    program = compile_model(model, RTL, batch=2)
    with pytest.raises(ValueError, match="1 prompts, but the program is for a batch of 2"):
        BatchGenerator(model, program, [[1]], 1)
    with pytest.raises(ValueError, match=r"prompts of \[2, 30\] tokens and 3 more each do not fit the context of 32"):
        BatchGenerator(model, program, [[1, 2], [1] * 30], 3)
