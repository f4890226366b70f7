"""Models by name: their sizes, and programs for them on one FPGA."""

from dataclasses import replace

import pytest

from wordline.compiler.model import ModelError
from wordline.compiler.shapes import SHAPES, load_shape
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import load_config
from wordline.sim import cycles

#: Parameters as published (model cards and papers), in millions.
PUBLISHED = {
    "llama-2-7b": 6738, "llama-2-13b": 13016, "llama-3-8b": 8030, "mistral-7b": 7242, "tinyllama-1.1b": 1100,
    "smollm2-135m": 135, "qwen2.5-0.5b": 494, "qwen3-0.6b": 596, "gemma-3-270m": 268, "gpt2": 124, "gpt2-medium": 355,
    "gpt2-large": 774, "gpt2-xl": 1558, "gpt3-xl": 1300, "opt-6.7b": 6700, "bitnet-2b4t": 2400,
    "mmfreelm-370m": 370, "mmfreelm-1.3b": 1360, "mmfreelm-2.7b": 2700,
}
#: What a model needs besides configs/kv260.toml.
NEEDS = {"opt-6.7b": ["memory.vector_floats=131072", "memory.load_floats=32768"],
         "bitnet-2b4t": ["types.weights=ternary", 'array.weights=["int8", "ternary"]']}
NEEDS |= {name: NEEDS["bitnet-2b4t"] for name in SHAPES if name.startswith("mmfreelm")}


def test_parameters_are_the_published_ones():
    assert PUBLISHED.keys() == SHAPES.keys()
    for name, millions in PUBLISHED.items():
        assert SHAPES[name].parameters / 1e6 == pytest.approx(millions, rel=0.02), name


@pytest.mark.parametrize("name", SHAPES)
def test_every_model_compiles(name):
    program = compile_model(load_shape(name), load_config("kv260", NEEDS.get(name, [])), context=128, keep_logits=False)
    # The weights at their bits, scales and all, and little else.
    bits = 1.6 if any("ternary" in setting for setting in NEEDS.get(name, [])) else 4
    head = SHAPES[name].parameters + (SHAPES[name].tied * SHAPES[name].vocab * SHAPES[name].width)
    assert 1 < program.memory_size / (head * bits / 8) < 3


@pytest.mark.parametrize(("name", "settings", "context", "message"), [
    ("opt-6.7b", [], 128, "needs memory.vector_floats = 131072, the configuration has 65536"),
    ("opt-6.7b", NEEDS["opt-6.7b"][:1], 128, "needs memory.load_floats = 32768, the configuration has 16384"),
    ("bitnet-2b4t", ["types.weights=ternary"], 128, "does not decode 'ternary'.*add it to array.weights"),
    ("gpt2", [], 1025, "context = 1025: the model was trained for 1 to 1024 positions"),
])
def test_what_does_not_fit_names_the_field(name, settings, context, message):
    with pytest.raises(CompileError, match=message):
        compile_model(load_shape(name), load_config("kv260", settings), context=context, keep_logits=False)


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-0.5b", "gemma-3-270m", "gpt2"])
def test_shapes_are_timed(name):
    """One token: DRAM brings every weight of the layers and the head, and it is most of the time."""
    config = load_config("kv260")
    program = compile_model(load_shape(name), config, context=128, keep_logits=False)
    result = cycles.run(program, config, (1, 1, 0, -1))
    c = SHAPES[name]
    weights = c.parameters if c.tied else c.parameters - c.vocab * c.width
    beats = weights / 2 / config.beat_bytes
    assert beats < result.cycles < 4 * beats


def test_widths_that_no_step_of_the_array_divides():
    """576 and 896 are not multiples of 128 lanes, a head of 64 is half a step and half a tile."""
    for name in ("smollm2-135m", "qwen2.5-0.5b"):
        config = load_config("kv260", ["array.lanes=128", "array.cols=128", "array.group_min=128",
                                       "memory.meta_beats=128"])
        compile_model(load_shape(name), config, context=128, keep_logits=False)


def test_vectors_are_whole_words():
    model = replace(load_shape("smollm2-135m"), config=replace(SHAPES["smollm2-135m"], ffn=1540))
    with pytest.raises(CompileError, match="ffn = 1540 is not a multiple of vector.lanes = 16"):
        compile_model(model, load_config("kv260"), context=128)


def test_a_name_nobody_knows():
    with pytest.raises(ModelError, match="no model 'gpt9'.*gpt2-xl"):
        load_shape("gpt9")
