"""The `ModelConfig` of a GGUF file, from its metadata and from which tensors it has.

As with config.json: a field of the architecture that is not understood is an error, because its effect would be
missing from the result. Mistral's files say "llama". There is no GGUF of OPT and of MatMul-free LM: llama.cpp, which
defines the format, has no such architectures (for OPT: ggml-org/llama.cpp issue 6473); both are read as Hugging Face
folders.
"""

from collections.abc import Callable
from typing import Any

from wordline.compiler.architecture import ModelConfig, ModelError
from wordline.compiler.gguf_file import GgufFile

_MISSING = object()
#: Fields behind the architecture's name that do not change the mathematics of inference.
_IGNORED = {"vocab_size", "rope.scaling.finetuned", "rope.scaling.original_context_length", "tensor_data_layout"}


class _Fields:
    """The metadata of one architecture, and which fields of it have been understood."""

    def __init__(self, file: GgufFile):
        self.file, self.kind = file, file.metadata.get("general.architecture")
        self.known = set(_IGNORED)

    def error(self, name: str, message: str) -> ModelError:
        return ModelError(f"{self.file.path}: metadata '{self.kind}.{name}' {message}")

    def take(self, name: str, kind: type, default: Any = _MISSING) -> Any:
        self.known.add(name)
        value = self.file.metadata.get(f"{self.kind}.{name}", default)
        if value is _MISSING:
            raise self.error(name, "is missing")
        if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float | type(default)):
            raise self.error(name, f"= {value!r} is not {'a whole number' if kind is int else 'a number'}")
        if kind is int and value < 0:
            raise self.error(name, f"= {value!r} is negative")
        return kind(value)

    def only(self, name: str, *allowed: Any) -> None:
        self.known.add(name)
        value = self.file.metadata.get(f"{self.kind}.{name}", allowed[0])
        if value not in allowed:
            raise self.error(name, f"= {value!r} is not supported, only {' or '.join(map(repr, allowed))}")

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors

    def finish(self) -> None:
        prefix = f"{self.kind}."
        for name in self.file.metadata:
            if name.startswith(prefix) and name.removeprefix(prefix) not in self.known:
                raise ModelError(f"{self.file.path}: metadata {name!r} is not understood, so the result could be wrong")


def _common(f: _Fields, eps: str = "attention.layer_norm_rms_epsilon") -> dict[str, Any]:
    width, heads = f.take("embedding_length", int), f.take("attention.head_count", int)
    if not heads:
        raise f.error("attention.head_count", "is 0")
    head_dim = f.take("attention.key_length", int, width // heads)
    f.only("attention.value_length", head_dim)
    f.only("expert_count", 0)
    f.only("expert_used_count", 0)
    f.only("attention.causal", True)
    embedding = f.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelError(f"{f.file.path}: tensor 'token_embd.weight' is missing")
    return {"layers": f.take("block_count", int), "width": width, "heads": heads,
            "kv_heads": f.take("attention.head_count_kv", int, heads), "head_dim": head_dim,
            "ffn": f.take("feed_forward_length", int), "vocab": embedding.shape[0],
            "context": f.take("context_length", int), "norm_eps": f.take(eps, float),
            "tied": not f.has("output.weight"), "qkv_bias": f.has("blk.0.attn_q.bias"),
            "o_bias": f.has("blk.0.attn_output.bias"), "mlp_bias": f.has("blk.0.ffn_up.bias")}


def _rope(f: _Fields, head_dim: int, default: float = 1e4) -> dict[str, Any]:
    f.only("rope.dimension_count", head_dim)
    f.only("rope.scaling.type", "none", "linear")
    linear = f.file.metadata.get(f"{f.kind}.rope.scaling.type") == "linear"
    factor = f.take("rope.scaling.factor", float, 1.0)
    rope: dict[str, Any] = {"rope_theta": f.take("rope.freq_base", float, default)}
    if linear:
        rope["rope_factor"] = factor
    if f.has("rope_freqs.weight"):  # Llama 3's bands, as numbers
        rope["rope_divisors"] = tuple(float(x) for x in f.file.read("rope_freqs.weight"))
        if len(rope["rope_divisors"]) != head_dim // 2 or min(rope["rope_divisors"]) <= 0:
            raise ModelError(f"{f.file.path}: tensor 'rope_freqs.weight' is not {head_dim // 2} positive numbers")
    return rope


def _llama(f: _Fields) -> dict[str, Any]:
    fields = _common(f)
    return fields | _rope(f, fields["head_dim"]) | {"sliding_window": f.take("attention.sliding_window", int, 0)}


def _qwen2(f: _Fields) -> dict[str, Any]:
    fields = _common(f)
    return fields | _rope(f, fields["head_dim"])


def _qwen3(f: _Fields) -> dict[str, Any]:
    return _qwen2(f) | {"qk_norm": True}


def _gemma3(f: _Fields) -> dict[str, Any]:
    fields = _common(f)
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        f.only(name, 0.0)
    period = f.take("attention.sliding_window_pattern", int, 6)
    window = f.take("attention.sliding_window", int)
    layers, width = fields["layers"], fields["width"]
    # Gemma 3 27B, known by its layers, scales by its width over its heads, all others by their head_dim.
    per_head = width / fields["heads"] if layers == 62 else fields["head_dim"]
    return fields | _rope(f, fields["head_dim"], 1e6) | {
        # Norms: the file has 1 + w already.
        "activation": "gelu_tanh", "qk_norm": True, "post_norms": True, "embedding_scale": float(width) ** 0.5,
        "attention_scale": per_head**-0.5, "rope_local_theta": f.take("rope.freq_base_swa", float, 1e4),
        "local_layers": tuple(i for i in range(layers) if (i + 1) % period), "sliding_window": window}


def _gpt2(f: _Fields) -> dict[str, Any]:
    f.only("rope.dimension_count", 0)
    return _common(f, "attention.layer_norm_epsilon") | {
        "rope_theta": 0.0, "norm": "layer", "mlp": "plain", "activation": "gelu_tanh", "positions": "learned",
        "qkv_bias": True, "o_bias": True, "mlp_bias": True}


def _bitnet(f: _Fields) -> dict[str, Any]:
    """BitNet b1.58: sub-norms, the embedding as output head, and SiLU unless the file says otherwise (llama.cpp's
    ``src/models/bitnet.cpp``)."""
    fields = _common(f)
    f.only("hidden_activation", "silu", "swish", "relu2")
    squared = f.file.metadata.get("bitnet.hidden_activation") == "relu2"
    return fields | _rope(f, fields["head_dim"]) | {
        "tied": True, "sub_norms": True, "activation": "relu2" if squared else "silu"}


#: Architectures that GGUF does not have.
_FOLDERS = ("opt", "hgrn_bit")
#: By `general.architecture`.
ARCHITECTURES: dict[str, Callable[[_Fields], dict[str, Any]]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "gemma3": _gemma3, "gpt2": _gpt2,
    "bitnet": _bitnet}


def read_config(file: GgufFile) -> ModelConfig:
    """The `ModelConfig` of a GGUF file.

    Raises
    ------
    ModelError
        The architecture, a field or its value is not supported; names which.
    """
    f = _Fields(file)
    if f.kind not in ARCHITECTURES:
        note = f"; GGUF has no {f.kind!r}, it is read from a Hugging Face folder" if f.kind in _FOLDERS else ""
        raise ModelError(f"{file.path}: metadata 'general.architecture' is {f.kind!r}; supported: "
                         f"{', '.join(ARCHITECTURES)}{note}")
    parts = file.metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise ModelError(f"{file.path}: metadata 'split.count' = {parts!r}: a model in several GGUF files is not "
                         "supported: join them with gguf-split --merge")
    values = ARCHITECTURES[f.kind](f)
    f.finish()
    eos = file.metadata.get("tokenizer.ggml.eos_token_id", -1)
    config = ModelConfig(name=file.path.stem, eos=eos if isinstance(eos, int) else -1, **values)
    config.check(str(file.path))
    return config
