"""Timing by shape: what is counted, and the bandwidth that a 7B model reaches."""

import numpy as np
import pytest

from wordline.compiler.model import ModelError, load_model
from wordline.compiler.shapes import load_shape
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import load_config
from wordline.sim import cycles
from wordline.sim.timing import Timer, peak_bytes_per_cycle


def test_a_shape_takes_the_cycles_of_its_model():
    config = load_config("bitmod")
    programs = [compile_model(load(name), config, context=64) for load, name in
                ((load_model, "austen"), (load_shape, "austen"))]
    assert np.array_equal(programs[0].instructions, programs[1].instructions)
    assert len(programs[1].segments) < len(programs[0].segments) and programs[0].memory_size == programs[1].memory_size
    with pytest.raises(ModelError, match="can be timed, not run"):
        _ = load_shape("austen").tokenizer
    with pytest.raises(ModelError, match="llama-2-7b"):
        load_shape("llama-2-8b")


def test_a_step_reads_every_weight_once():
    config = load_config("bitmod")
    timer = Timer(load_shape("austen"), config, context=96)
    program = timer.program
    for context in (1, 17, 95):
        step = timer.decode(context)
        weights = sum(s.size for name, s in program.symbols.items()
                      if name.split(".")[-1] in ("qkv", "o", "gate_up", "down", "head"))
        key, value = timer.compiler.image.key, timer.compiler.image.value
        c, a, beat = timer.model.config, config.array, config.beat_bytes
        keys = -(-context // a.cols) * key.tile_bytes
        values = c.head_dim // a.cols * -(-(-(-context // a.lanes) * value.step_bytes) // beat) * beat
        # Two heads share keys and values, which are read once for both.
        assert (c.heads, c.kv_heads, a.rows) == (4, 2, 4)
        assert step.stream_bytes == weights + c.layers * c.kv_heads * (keys + values)
        assert all(sum(causes.values()) == step.cycles for causes in step.causes.values())
    with pytest.raises(CompileError, match="1 to 95"):
        timer.decode(96)


def test_a_batch_streams_weights_once_and_every_cache():
    config = load_config("bitmod")
    alone, together = (Timer(load_shape("austen"), config, context=96, batch=n) for n in (1, 3))
    one, three = alone.decode(50), together.decode(50)
    caches = one.stream_bytes - sum(
        s.size for name, s in alone.program.symbols.items()
        if name.split(".")[-1] in ("qkv", "o", "gate_up", "down", "head"))
    assert three.stream_bytes == one.stream_bytes + 2 * caches
    assert (one.tokens, three.tokens) == (1, 3)
    assert one.cycles < three.cycles < 3 * one.cycles
    # A matmul this small spends part of its time on its last tile's drain, row by row.
    assert 0.75 < three.gemm_slots / one.gemm_slots / 3 < 1.1
    request = together.request(20, 10)  # a prompt's tokens one by one
    whole = cycles.run(together.program, config, (20, 29, 0, -1)).cycles
    assert request.prefill_cycles + request.decode_cycles == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(("overrides", "tokens"), [
    (["dram.kind=fixed"], [4, 4, 4, 4, 1, 1, 1, 1, 1]), (["dram.kind=ddr4-2400"], [4, 4, 4, 4, 1, 1, 1, 1, 1]),
    # Besides, of a prompt in groups of 32: a step of 2 tokens; of prompt and text, steps that seal a group.
    (["types.kv=int4", "array.rows=3"], [3, 3, 3, 3, 2, 3, 2, 1, 1, 1, 1, 1, 1])], ids=lambda v: str(v[0]))
def test_a_request_is_the_sum_of_its_steps(overrides, tokens):
    config = load_config("bitmod", overrides)
    timer = Timer(load_shape("austen"), config, context=130)
    request = timer.request(61, 64)
    whole = cycles.run(timer.program, config, (61, 61 + 63, 0, -1)).cycles  # also boots
    assert request.prefill_cycles + request.decode_cycles == pytest.approx(whole, rel=0.01)
    assert [s.tokens for s in request.simulated] == tokens


@pytest.mark.parametrize(("config", "model", "share"), [
    ("kv260", "llama-2-7b", 0.945),  # of 19.2 GB/s; refresh alone leaves 0.955
    ("kv260_ternary", "bitnet-2b4t", 0.94), ("kv260_ternary", "mmfreelm-1.3b", 0.925),
    ("u280", "llama-2-7b", 0.90),  # of 460.8 GB/s; sequential reads alone reach 0.933
])
def test_decode_reaches_the_memory_wall(config, model, share):
    timer = Timer(load_shape(model), load_config(config), context=1088)
    step = timer.decode(1024)
    assert step.useful_bytes / step.cycles / peak_bytes_per_cycle(timer.config) >= share


@pytest.mark.slow
def test_prefill_of_llama_2_7b_keeps_the_array_busy():
    timer = Timer(load_shape("llama-2-7b"), load_config("kv260", ["memory.load_floats=32768"]), context=2112)
    for position in (0, 1024, 2046):
        assert timer.prefill(position, 2).gemm_slots >= 0.90
