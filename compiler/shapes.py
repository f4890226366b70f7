"""Models by name of which the shape alone is needed, to compile and time them without their weights."""

from dataclasses import replace
from pathlib import Path

from wordline.compiler.model import (
    EMBEDDED,
    Model,
    ModelConfig,
    ModelError,
    find_model,
    read_config,
)

_LLAMA2 = ModelConfig(
    name="llama-2-7b", layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32000, context=4096,
    norm_eps=1e-5, rope_theta=1e4, tied=False)

#: From the config.json that each model is published with.
SHAPES: dict[str, ModelConfig] = {c.name: c for c in (
    _LLAMA2,
    replace(_LLAMA2, name="llama-2-13b", layers=40, width=5120, heads=40, kv_heads=40, ffn=13824),
    replace(_LLAMA2, name="llama-3-8b", kv_heads=8, ffn=14336, vocab=128256, context=8192, rope_theta=5e5),
    replace(_LLAMA2, name="mistral-7b", kv_heads=8, ffn=14336, context=32768),
    replace(_LLAMA2, name="tinyllama-1.1b", layers=22, width=2048, kv_heads=4, head_dim=64, ffn=5632, context=2048),
    ModelConfig(name="smollm2-135m", layers=30, width=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152,
                context=8192, norm_eps=1e-5, rope_theta=1e5, tied=True),
)}


def load_shape(name: str | Path) -> Model:
    """A model without weights: a name in `SHAPES`, or a folder with a config.json.

    Raises
    ------
    ModelError
        There is no such model, or its config.json is not understood.
    """
    if str(name) in SHAPES:
        return Model(SHAPES[str(name)], {}, None, Path())
    try:
        folder = find_model(name)
    except ModelError:
        raise ModelError(f"no model {str(name)!r}: not a folder with a config.json, and not one of "
                         f"{', '.join((*EMBEDDED, *SHAPES))}") from None
    return Model(read_config(folder), {}, None, folder)
