"""Models by name of which the shape alone is needed, to compile and time them without their weights."""

from dataclasses import replace
from pathlib import Path

from wordline.compiler.model import (
    EMBEDDED,
    Model,
    ModelConfig,
    ModelError,
    find_config,
    find_model,
)

# Values from the config.json of the Hugging Face model that the comment names.
_LLAMA2 = ModelConfig(  # meta-llama/Llama-2-7b-hf
    name="llama-2-7b", layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=32000, context=4096,
    norm_eps=1e-5, rope_theta=1e4, tied=False)
_QWEN = ModelConfig(  # Qwen/Qwen2.5-0.5B
    name="qwen2.5-0.5b", layers=24, width=896, heads=14, kv_heads=2, head_dim=64, ffn=4864, vocab=151936, context=32768,
    norm_eps=1e-6, rope_theta=1e6, tied=True, qkv_bias=True)
_GPT2 = ModelConfig(  # openai-community/gpt2
    name="gpt2", layers=12, width=768, heads=12, kv_heads=12, head_dim=64, ffn=3072, vocab=50257, context=1024,
    norm_eps=1e-5, rope_theta=0.0, tied=True, norm="layer", mlp="plain", activation="gelu_tanh", qkv_bias=True,
    o_bias=True, mlp_bias=True, positions="learned")
_MMFREE = ModelConfig(  # layers and width: the repository's README; the rest: the defaults of its HGRNBitConfig
    name="mmfreelm-370m", layers=24, width=1024, heads=1, kv_heads=1, head_dim=1024, ffn=2816, vocab=32000,
    context=2048, norm_eps=1e-6, rope_theta=0.0, tied=False, mixer="mlgru", positions="none", linear_norms=True,
    sub_norms=True, lower_bounds=True)

#: Models by name.
SHAPES: dict[str, ModelConfig] = {c.name: c for c in (
    _LLAMA2,
    # meta-llama/Llama-2-13b-hf, meta-llama/Meta-Llama-3-8B
    replace(_LLAMA2, name="llama-2-13b", layers=40, width=5120, heads=40, kv_heads=40, ffn=13824),
    replace(_LLAMA2, name="llama-3-8b", kv_heads=8, ffn=14336, vocab=128256, context=8192, rope_theta=5e5),
    # mistralai/Mistral-7B-v0.1
    replace(_LLAMA2, name="mistral-7b", kv_heads=8, ffn=14336, context=32768, sliding_window=4096),
    # TinyLlama/TinyLlama-1.1B-Chat-v1.0
    replace(_LLAMA2, name="tinyllama-1.1b", layers=22, width=2048, kv_heads=4, head_dim=64, ffn=5632, context=2048),
    # HuggingFaceTB/SmolLM2-135M
    replace(_LLAMA2, name="smollm2-135m", layers=30, width=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=49152,
            context=8192, rope_theta=1e5, tied=True),
    _QWEN,
    # Qwen/Qwen3-0.6B
    replace(_QWEN, name="qwen3-0.6b", layers=28, width=1024, heads=16, kv_heads=8, head_dim=128, ffn=3072,
            context=40960, qkv_bias=False, qk_norm=True),
    # google/gemma-3-270m: every sixth layer sees all positions
    ModelConfig(name="gemma-3-270m", layers=18, width=640, heads=4, kv_heads=1, head_dim=256, ffn=2048, vocab=262144,
                context=32768, norm_eps=1e-6, rope_theta=1e6, tied=True, norm_offset=1.0, activation="gelu_tanh",
                qk_norm=True, post_norms=True, embedding_scale=640**0.5, attention_scale=256**-0.5, sliding_window=512,
                rope_local_theta=1e4, local_layers=tuple(i for i in range(18) if (i + 1) % 6)),
    _GPT2,
    # openai-community/gpt2-medium, gpt2-large, gpt2-xl
    replace(_GPT2, name="gpt2-medium", layers=24, width=1024, heads=16, kv_heads=16, ffn=4096),
    replace(_GPT2, name="gpt2-large", layers=36, width=1280, heads=20, kv_heads=20, ffn=5120),
    replace(_GPT2, name="gpt2-xl", layers=48, width=1600, heads=25, kv_heads=25, ffn=6400),
    # arXiv:2005.14165, table 2.1, "GPT-3 XL", 1.3 B parameters. The table says 24 heads of 128 at a width of 2048,
    # which do not go together and would be 1.5 B; here it is 16 heads of 128, which are 2048 and 1.3 B.
    replace(_GPT2, name="gpt3-xl", layers=24, width=2048, heads=16, kv_heads=16, head_dim=128, ffn=8192, context=2048),
    # facebook/opt-6.7b
    replace(_GPT2, name="opt-6.7b", layers=32, width=4096, heads=32, kv_heads=32, head_dim=128, ffn=16384, vocab=50272,
            context=2048, activation="relu", position_offset=2),
    # microsoft/bitnet-b1.58-2B-4T; for types.weights=ternary
    replace(_LLAMA2, name="bitnet-2b4t", layers=30, width=2560, heads=20, kv_heads=5, ffn=6912, vocab=128256,
            rope_theta=5e5, tied=True, activation="relu2", sub_norms=True),
    # ridger/MMfreeLM-370M, 1.3B, 2.7B: MatMul-free LM, also for types.weights=ternary
    _MMFREE,
    replace(_MMFREE, name="mmfreelm-1.3b", width=2048, head_dim=2048, ffn=5632),
    replace(_MMFREE, name="mmfreelm-2.7b", layers=32, width=2560, head_dim=2560, ffn=6912),
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
        return Model(find_config(name), {}, None, find_model(name))
    except ModelError as error:
        if not str(error).startswith("no model"):
            raise
        raise ModelError(f"no model {str(name)!r}: not a folder with a config.json, not a .gguf file, and not one of "
                         f"{', '.join((*EMBEDDED, *SHAPES))}") from None
