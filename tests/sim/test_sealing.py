"""A 4- or 2-bit cache, keys per channel of a group of tokens: the same bits for any chunks, on any hardware."""

from dataclasses import replace

import numpy as np
import pytest
from executors import check_rtl
from tiny_models import LLAMA, MODELS, RTL, ids_of, random_model

from wordline.compiler.model import Model, load_model
from wordline.compiler.transformer import TransformerCompiler, compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import Config, TypesConfig, load_config
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import BatchGenerator, Generation, Generator, compare
from wordline.sim.hardware_model import HardwareModel, _codes, _Keys, _sealed, _values
from wordline.sim.rtl import RtlMachine

GROUP = 16
INT4 = TypesConfig(weights="int8", acts=16, kv="int4", kv_group=GROUP)
INT2 = replace(INT4, kv="int2")
LARGE = ["memory.vector_floats=16384", "memory.matmul_floats=16384", "memory.load_floats=4096", "memory.program=4096"]


def on(types: TypesConfig, *overrides: str, name: str = "bitmod") -> Config:
    return replace(load_config(name, list(overrides)), types=types)


def generator(model: Model, config: Config, prompt: int, tokens: int) -> Generator:
    ids = ids_of(model.config, prompt) if model.config.name != "austen" else model.tokenizer.encode(
        (model.folder / "heldout.txt").read_text()).ids[:prompt]
    context = min(model.config.context, prompt + tokens)
    return Generator(model, compile_model(model, config, context=context), [int(i) for i in ids], tokens)


def generated(model: Model, config: Config, prompt: int, tokens: int) -> Generation:
    return generator(model, config, prompt, tokens).functional(FunctionalMachine(config), lambda tokens: None)


def whole(model: Model, types: TypesConfig, run: Generation) -> np.ndarray:
    return HardwareModel(model, types).logits(run.tokens)[run.prompt - 1 : -1]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("types", [INT4, replace(INT2, kv_group=32), replace(INT4, acts=8)],
                         ids=lambda t: f"{t.kv}-{t.kv_group}-a{t.acts}")
def test_the_functional_simulator_is_the_batched_model(types):
    """Through prompt and decoding: two groups are sealed in the prompt, a third while tokens are generated."""
    model = load_model("austen")
    run = generated(model, on(types), 2 * types.kv_group + 11, 8)
    assert same(whole(model, types, run), run.logits)


@pytest.mark.parametrize(("rows", "more"), [
    (1, ["array.cols=16", "array.lanes=8"]), (3, ["array.lanes=64", "array.group_min=64", "vector.lanes=4"]),
    (16, ["bus.data_bits=512"]), (5, ["memory.store_floats=256", "bus.data_bits=32", "array.cols=16"]),
], ids=lambda v: str(v) if isinstance(v, int) else "")
def test_any_chunks_on_any_hardware_give_the_same_bits(rows, more):
    """Chunks of 3, 5 and 16 tokens end with a group, wherever they would; heads are shorter than a step."""
    model = load_model("austen")
    run = generated(model, on(INT4, f"array.rows={rows}", *LARGE, *more), 2 * GROUP + 9, 8)
    assert same(whole(model, INT4, run), run.logits)


@pytest.mark.parametrize(("kv", "memory"), [("int4", "load"), ("int2", "load"), ("int4", "vector")])
def test_a_group_is_sealed_in_parts_where_a_bank_is_small(kv, memory):
    model = random_model(replace(LLAMA, context=80, width=32, head_dim=32, layers=1))
    types = replace(INT4, kv=kv, kv_group=32)
    small = on(types, f"memory.{memory}_floats={512 if memory == 'load' else 1024}", "array.rows=1")
    assert TransformerCompiler(model, on(types)).places.seal_tokens == 32
    assert TransformerCompiler(model, small).places.seal_tokens < 32
    run = generated(model, small, 66, 3)
    assert same(run.logits, whole(model, types, run))


@pytest.mark.parametrize("kv", ["int4", "int2"])
@pytest.mark.parametrize("name", MODELS)
def test_every_architecture(name, kv):
    model, types = random_model(MODELS[name]), replace(INT4, kv=kv, kv_group=8)
    run = generated(model, on(types, "memory.program=4096", "array.rows=2"), 19, 8)
    assert same(whole(model, types, run), run.logits)


@pytest.mark.parametrize("bits", [2, 4])
def test_keys_take_all_codes(bits):
    """The lowest code on the side of zero that reaches further, which half of the channels have below."""
    top = 1 << (bits - 1)
    x = np.random.default_rng(bits).standard_normal((3, 16, 400)).astype(np.float32)
    codes, scale = _sealed(x, bits)
    assert codes.min() == -top and codes.max() == top - 1
    assert (np.abs(codes * scale[:, None] - x) <= np.abs(scale[:, None]) * 0.5001).all()
    high, low = x.max(1), -x.min(1)
    finest = np.maximum(np.maximum(high, low) / top, np.minimum(high, low) / (top - 1))
    assert np.allclose(np.abs(scale), finest, rtol=1e-6) and np.array_equal(scale > 0, high < low)
    even, none = np.tile(np.float32([3, -3]), 4).reshape(1, 8, 1), np.zeros((1, 8, 2), np.float32)
    assert np.allclose(np.multiply(*_sealed(even, bits)), even, rtol=1e-6) and not _sealed(none, bits)[0].any()


@pytest.mark.parametrize("bits", [2, 4])
def test_values_take_all_codes_from_the_smallest_to_the_largest(bits):
    """KIVI, arXiv 2402.02750, but for where codes begin: ``scale = (max - min) / (2^bits - 1)``."""
    top = 1 << (bits - 1)
    x = (5 + np.random.default_rng(bits).standard_normal((400, 16))).astype(np.float32)
    codes, scale, zero = _values(x, bits)
    assert zero is not None and (codes.min(1) == -top).all() and (codes.max(1) == top - 1).all()
    assert (np.abs(codes * scale[:, None] + zero[:, None] - x) <= scale[:, None] * 0.5001).all()
    assert np.allclose(scale, np.ptp(x, axis=1) / (2**bits - 1), rtol=1e-6)
    codes, scale, zero = _values(np.full((1, 8), 7, np.float32), bits)
    assert zero is not None and (codes * scale + zero == 7).all()
    x = np.float32([[7, np.nextafter(np.float32(7), np.float32(8)), 7, np.nextafter(np.float32(7), np.float32(0))]])
    codes, scale, zero = _values(x, bits)
    assert zero is not None and (np.abs(codes + 0.5) < top).all() and np.allclose(codes * scale + zero, x, rtol=1e-6)


def test_values_that_differ_by_rounding_alone():
    """Sums of large numbers of opposite sign give codes that do not fit; the cache takes their low bits."""
    model = random_model(replace(LLAMA, layers=1, qkv_bias=True))
    at, tensors = "model.layers.0.self_attn.v_proj", dict(model.tensors)
    tensors |= {f"{at}.weight": 5e-7 * tensors[f"{at}.weight"], f"{at}.bias": np.full_like(tensors[f"{at}.bias"], 7)}
    model, types = replace(model, tensors=tensors), INT4
    run = generated(model, on(types, "array.rows=1"), 20, 6)
    assert same(whole(model, types, run), run.logits)


def test_loud_channels_cost_quiet_ones_nothing():
    """Where some channels are much larger than others, 4 bits per token leave nothing of the others; per channel they
    keep their places."""
    c = replace(LLAMA, context=96)
    rng = np.random.default_rng(5)
    loud = np.where(np.arange(c.head_dim) == 3, 100, 1)
    q, k = (rng.standard_normal((96, c.head_dim)).astype(np.float32) for _ in range(2))
    q, k = (q / loud).astype(np.float32), (k * loud).astype(np.float32)
    exact = (q @ k.T * c.score_scale * np.log2(np.e))[64:, :64]
    codes, scale = _codes(k, 4)
    per_channel = _Keys(k, 4, 32).scores(q[64:], 64, 16, np.float32(c.score_scale * np.log2(np.e)))[:, :64]
    per_token = ((q * c.score_scale * np.log2(np.e)) @ (codes * scale).T)[64:, :64]

    def error(scores: np.ndarray) -> float:
        return float(np.sqrt(((scores - exact) ** 2).mean() / (exact**2).mean()))

    assert error(per_channel) < 0.15 < 0.6 < error(per_token)


@pytest.fixture(scope="module")
def machine():
    return RtlMachine(RTL)


@pytest.mark.parametrize(("name", "kv", "stalls"), [
    ("llama", "int4", 0.0), ("llama", "int2", 0.4), ("gemma3", "int2", 0.0), ("qwen3", "int4", 0.0)])
def test_the_rtl_gives_the_same_bits_in_the_cycles_of_the_model(name, kv, stalls, machine):
    model, config = random_model(MODELS[name]), replace(RTL, types=replace(INT4, kv=kv))
    work = generator(model, config, 17, 9 if stalls else 15)
    check_rtl(work, config, machine, stalls=stalls, seed=3)


@pytest.mark.parametrize("on_rtl", [False, True])
def test_a_batch_gives_every_sequence_its_own_bits(on_rtl, machine):
    model, config = random_model(LLAMA), replace(RTL, types=replace(INT4, kv_group=16))
    ids = [int(i) for i in ids_of(LLAMA, 30)]
    prompts = [ids[:18], ids[5:9]]
    batch = BatchGenerator(model, compile_model(model, config, batch=2), prompts, 5)
    together = batch.run(machine if on_rtl else FunctionalMachine(config))
    program = compile_model(model, config)
    for prompt, other in zip(prompts, together, strict=True):
        alone = Generator(model, program, prompt, 5).functional(FunctionalMachine(config), lambda tokens: None)
        assert compare(alone, other).bits == 0, compare(alone, other).where


def test_what_an_earlier_run_left_in_dram_does_not_matter():
    model, config = random_model(LLAMA), on(INT4)
    work = generator(model, config, 20, 10)
    dirty = FunctionalMachine(config)
    dirty.memory[:] = np.random.default_rng(1).integers(0, 256, dirty.memory.size, np.uint8)
    clean = work.functional(FunctionalMachine(config), lambda tokens: None)
    assert compare(clean, work.functional(dirty, lambda tokens: None)).bits == 0


def test_messages():
    model = random_model(replace(LLAMA, context=4096))
    with pytest.raises(CompileError, match=r"types.kv_group = 16 is not a multiple of array.cols = 32"):
        compile_model(model, on(INT4, "array.cols=32"), context=64)
    with pytest.raises(CompileError, match=r"context 4096 has 255 groups of types.kv_group = 16 tokens; at most 254"):
        compile_model(random_model(replace(LLAMA, context=4096, head_dim=256)), on(INT4, *LARGE), context=4096)
    with pytest.raises(CompileError, match="does not decode 'int2'"):
        compile_model(model, on(replace(INT2, acts=8), name="ulx3s"), context=64)


@pytest.mark.parametrize(("context", "prompt"), [(64, 5), (64, 13), (16, 9)])
def test_a_text_shorter_than_a_group(context, prompt):
    """Whether the program could seal groups or not."""
    model = random_model(replace(LLAMA, context=context))
    run = generated(model, on(INT4), prompt, 3)
    assert same(whole(model, INT4, run), run.logits)
