"""Tiny random models of every architecture that GGUF has, written by the gguf package."""

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as Format

from wordline.compiler.architecture import ModelConfig, expected_shapes
from wordline.compiler.gguf_tensors import _name

LLAMA = ModelConfig(name="tiny", layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=300, context=32,
                    norm_eps=9.999999747378752e-06, rope_theta=1e4, tied=False)
MODELS = {
    "llama": LLAMA,
    "qwen2": replace(LLAMA, qkv_bias=True, tied=True),
    "qwen3": replace(LLAMA, qk_norm=True, head_dim=32),
    "gemma3": replace(LLAMA, layers=7, activation="gelu_tanh", qk_norm=True, post_norms=True, embedding_scale=8.0,
                      attention_scale=0.25, rope_theta=1e6, rope_local_theta=1e4, local_layers=(0, 1, 2, 3, 4, 6),
                      sliding_window=16, tied=True),
    "gpt2": replace(LLAMA, kv_heads=4, norm="layer", mlp="plain", activation="gelu_tanh", qkv_bias=True, o_bias=True,
                    mlp_bias=True, positions="learned", rope_theta=0.0, tied=True),
    "bitnet": replace(LLAMA, sub_norms=True, tied=True),
}


def tensors(c: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(c).items()}


def theirs(kind: str, c: ModelConfig, ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our tensors under GGUF's names: queries and keys of Llama interleaved, those of GPT-2 in one with the values."""
    found: dict[str, np.ndarray] = {}
    for name, x in ours.items():
        to = _name(c, kind, name)
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            # As llama.cpp's converter states it: [heads, 2, half] to [heads, half, 2].
            x = x.reshape(-1, 2, c.head_dim // 2, c.width).swapaxes(1, 2).reshape(x.shape)
        found[to] = np.concatenate([found[to], x]) if to in found else x
    return found


def byte_level(writer: gguf.GGUFWriter, vocab: int) -> None:
    printable = [chr(i) for i in range(33, 127)] + [chr(i) for i in range(161, 173)] + [
        chr(i) for i in range(174, 256)] + [chr(256 + i) for i in range(68)]
    tokens = printable + ["ab", "abc", "<|end|>"] + [f"[{i}]" for i in range(vocab - 259)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t == "<|end|>" else 1 for t in tokens])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_eos_token_id(258)


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write(path: Path, kind: str, c: ModelConfig, ours: dict[str, np.ndarray], change: dict | None = None,
          format_: Format = Format.F32, extra: dict[str, np.ndarray] | None = None) -> Path:
    writer = gguf.GGUFWriter(path, kind)
    fields = {"block_count": c.layers, "context_length": c.context, "embedding_length": c.width,
              "feed_forward_length": c.ffn, "attention.head_count": c.heads, "attention.head_count_kv": c.kv_heads,
              "attention.key_length": c.head_dim, "attention.value_length": c.head_dim, "rope.freq_base": c.rope_theta,
              "attention.layer_norm_epsilon" if kind == "gpt2" else "attention.layer_norm_rms_epsilon": c.norm_eps}
    if kind == "gpt2":
        del fields["rope.freq_base"]
    if kind == "gemma3":
        fields["attention.sliding_window"] = c.sliding_window
    for name, value in (fields | (change or {})).items():
        if value is None:
            continue
        if isinstance(value, float):
            writer.add_float32(f"{kind}.{name}", value)
        elif isinstance(value, str):
            writer.add_string(f"{kind}.{name}", value)
        else:
            writer.add_uint32(f"{kind}.{name}", value)
    byte_level(writer, c.vocab)
    for name, x in (theirs(kind, c, ours) | (extra or {})).items():
        if x.ndim == 2 and format_ is not Format.F32:
            writer.add_tensor(name, gguf.quants.quantize(x, format_), raw_dtype=format_)
        else:
            writer.add_tensor(name, x)
    finish(writer)
    return path
