"""Tiny random models of every architecture, and hardware to run them on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from wordline.compiler.architecture import ModelConfig, ModelError, expected_shapes
from wordline.compiler.model import Model, load_model
from wordline.rtl.config import load_config

# The hardware of test_end_to_end.py, which is built once for both, as is the other one below.
RTL = load_config("bitmod", ["array.rows=2", "array.cols=16", "array.lanes=8", "types.weights=int8", "types.acts=16"])
LLAMA = ModelConfig(name="llama", layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=64, context=32,
                    norm_eps=1e-5, rope_theta=1e4, tied=False)
_LEARNED = replace(LLAMA, kv_heads=4, norm="layer", mlp="plain", qkv_bias=True, o_bias=True, mlp_bias=True,
                   positions="learned", tied=True)
# The bounds of two layers are 0 and a half on the average.
MLGRU = replace(LLAMA, name="mlgru", mixer="mlgru", positions="none", linear_norms=True, sub_norms=True,
                lower_bounds=True, heads=1, kv_heads=1, head_dim=64, rope_theta=0.0)
MODELS = {c.name: c for c in (
    LLAMA,
    replace(LLAMA, name="llama-biased", qkv_bias=True, o_bias=True, mlp_bias=True),
    replace(LLAMA, name="llama-3.1", rope_theta=1e2, rope_factor=8.0, rope_bands=(1.0, 4.0, 12.0)),
    replace(LLAMA, name="mistral", sliding_window=32),
    replace(LLAMA, name="qwen2", qkv_bias=True, tied=True, width=96),
    replace(LLAMA, name="qwen3", qk_norm=True, head_dim=32),
    replace(LLAMA, name="gemma3", norm_offset=1.0, activation="gelu_tanh", qk_norm=True, post_norms=True, kv_heads=1,
            embedding_scale=8.0, attention_scale=0.12, head_dim=32, rope_theta=1e6, rope_local_theta=1e2,
            local_layers=(0,), sliding_window=32, tied=True),
    replace(_LEARNED, name="gpt2", activation="gelu_tanh"),
    replace(_LEARNED, name="gpt2-erf", activation="gelu"),
    replace(_LEARNED, name="opt", activation="relu", position_offset=2),
    replace(LLAMA, name="bitnet", activation="relu2", sub_norms=True, tied=True),
    MLGRU, replace(MLGRU, name="mlgru-wide", head_dim=96, lower_bounds=False),
)}


def random_model(c: ModelConfig, seed: int = 0) -> Model:
    """Matrices that keep a vector's size; norms, biases and positions large enough to be seen."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(c).items():
        x = rng.standard_normal(shape)
        if len(shape) == 2 and name.endswith("weight"):
            if c.linear_norms and "embed" not in name:  # MatMul-free LM's are ternary
                x = 1.2 * np.sign(x) * (np.abs(x) > 0.5)
            # The residual begins with elements of about 1, and matrices keep that size.
            x *= 1 / c.embedding_scale if "embed" in name else 1 / math.sqrt(shape[1])
        elif name.endswith("norm.weight"):
            x = 1 - c.norm_offset + 0.3 * x
        else:
            x *= 0.5
        tensors[name] = x.astype(np.float32)
    return Model(c, tensors, None, Path())


def ids_of(c: ModelConfig, n: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, c.vocab, n)


def open_whole(path: Path) -> None:
    """Reads all of a model: configuration, tokenizer and every tensor; or finds an error that names the file."""
    try:
        model = load_model(path)
        for name in model.tensors:
            model.tensors[name]
        model.tokenizer.encode("abc")
    except ModelError as error:
        assert str(path) in str(error)
