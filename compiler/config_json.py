"""config.json of Hugging Face models: every field understood, or refused by name.

One function per architecture turns its fields into a `ModelConfig`. What it `take`s is known; what may stand
there only with one value, it `only`s; what does not change the mathematics of inference it ignores. A field left
over is an error, because its effect would be missing from the result.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wordline.compiler.architecture import Activation, ModelConfig, ModelError

#: Fields that do not change the mathematics of inference.
_IGNORED = {
    "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "initializer_range", "attention_dropout", "_name_or_path",
    "pretraining_tp", "is_llama_config", "rope_interleaved", "transformers.js_config", "hidden_dropout", "dropout",
    "auto_map", "prefix", "output_attentions", "output_hidden_states", "return_dict", "sep_token_id",
    "cache_implementation",
}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "relu": "relu", "relu2": "relu2",
}
_MISSING = object()


class _Fields:
    """The fields of a config.json, and which of them have been understood."""

    def __init__(self, path: Path, raw: dict[str, Any]):
        self.path, self.raw, self.known = path, raw, set(_IGNORED)

    def take(self, name: str, default: Any = _MISSING) -> Any:
        self.known.add(name)
        if name not in self.raw and default is _MISSING:
            raise ModelError(f"{self.path}: {name} is missing")
        return self.raw.get(name, default)

    def size(self, name: str, default: Any = _MISSING) -> int:
        """A whole number; 0 for null."""
        value = self.take(name, default)
        if value is None and default is not _MISSING:
            return 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ModelError(f"{self.path}: {name} = {value!r} is not a whole number")
        return value

    def number(self, name: str, default: Any = _MISSING) -> float:
        return self._float(name, self.take(name, default))

    def _float(self, name: str, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
            raise ModelError(f"{self.path}: {name} = {value!r} is not a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ModelError(f"{self.path}: {name} = {value!r} is not true or false")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """The first value allowed is what an absent field means."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise ModelError(f"{self.path}: {name} = {value!r} is not supported, only "
                             f"{' or '.join(repr(a) for a in allowed)}")

    def ignore(self, *names: str) -> None:
        self.known.update(names)

    def activation(self, name: str, default: Any = _MISSING) -> Activation:
        value = self.take(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise ModelError(f"{self.path}: {name} = {value!r} is not supported, only one of {sorted(_ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def rope(self, default: float) -> dict[str, Any]:
        """RoPE with its base and its scaling, if any."""
        return self._rope(self.take("rope_theta", default), self.take("rope_scaling", None), "full_attention")

    def local_rope(self, default: float) -> float:
        """The base of a second RoPE, which is never scaled."""
        return self._rope(self.take("rope_local_base_freq", default), None, "sliding_attention")["rope_theta"]

    def _rope(self, theta: float, scaling: dict[str, Any] | None, kind: str) -> dict[str, Any]:
        # Where transformers 5 writes base and scaling, of Gemma 3 by kind of layer.
        parameters = self.take("rope_parameters", None) or {}
        if not isinstance(scaling or {}, dict) or not isinstance(parameters, dict) or not isinstance(
                parameters.get(kind) or {}, dict):
            raise ModelError(f"{self.path}: rope_scaling = {scaling!r} and rope_parameters = {parameters!r}: must be "
                             "objects")
        given = (scaling or {}) | (parameters.get(kind, parameters) or {})
        fields = dict(given)
        rope_type = fields.pop("rope_type", fields.pop("type", "default"))
        fields.pop("type", None)
        result: dict[str, Any] = {"rope_theta": self._float("rope_theta", fields.pop("rope_theta", theta))}
        try:
            if rope_type in ("linear", "llama3"):
                result["rope_factor"] = self._float("factor", fields.pop("factor"))
            if rope_type == "llama3":
                result["rope_bands"] = tuple(self._float(name, fields.pop(name)) for name in (
                    "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
        except KeyError as error:
            raise ModelError(f"{self.path}: {error.args[0]} is missing in rope_scaling = {given!r}") from None
        whole = fields.pop("partial_rotary_factor", 1.0) == 1.0
        if rope_type not in ("default", "linear", "llama3") or not whole or fields:
            raise ModelError(f"{self.path}: rope_scaling = {given!r} is not supported, only RoPE of whole heads with "
                             "rope_type 'default', 'linear' or 'llama3'")
        return result

    def finish(self) -> None:
        unknown = sorted(set(self.raw) - self.known)
        if unknown:
            raise ModelError(f"{self.path}: field {unknown[0]!r} is not understood, so the result could be wrong")


def _common(f: _Fields, *, tied: bool, activation: str | None = None, head_dim: int = 0) -> dict[str, Any]:
    """What Llama and its descendants name alike. `tied`, `activation` and `head_dim` are the architecture's own
    defaults."""
    heads, width = f.size("num_attention_heads"), f.size("hidden_size")
    return {
        "layers": f.size("num_hidden_layers"), "width": width, "heads": heads,
        "kv_heads": f.size("num_key_value_heads", None) or heads,
        "head_dim": f.size("head_dim", None) or head_dim or width // max(heads, 1),
        "ffn": f.size("intermediate_size"), "vocab": f.size("vocab_size"),
        "context": f.size("max_position_embeddings"), "norm_eps": f.number("rms_norm_eps"),
        "tied": f.flag("tie_word_embeddings", tied),
        "activation": f.activation("hidden_act", "silu") if activation is None else activation,
    }


def _llama(f: _Fields) -> dict[str, Any]:
    bias = f.flag("attention_bias", False)
    return _common(f, tied=False) | {
        **f.rope(1e4), "qkv_bias": bias, "o_bias": bias,
        "mlp_bias": f.flag("mlp_bias", False)}


def _mistral(f: _Fields) -> dict[str, Any]:
    return _common(f, tied=False) | {**f.rope(1e4),
                                     "sliding_window": f.size("sliding_window", None)}


def _local_layers(f: _Fields, layers: int, is_local: Callable[[int], bool]) -> tuple[int, ...]:
    """The layers with a sliding window: as the file lists them, or else as `is_local` says."""
    types = f.take("layer_types", None) or [
        "sliding_attention" if is_local(i) else "full_attention" for i in range(min(layers, 4096))]
    if not isinstance(types, list) or not set(map(str, types)) <= {"full_attention", "sliding_attention"}:
        raise ModelError(f"{f.path}: layer_types = {types!r}: must be 'full_attention' or 'sliding_attention'")
    return tuple(i for i, name in enumerate(types) if name == "sliding_attention")


def _qwen_window(f: _Fields, layers: int) -> dict[str, Any]:
    """Sliding window of Qwen2 and Qwen3, which only layers from `max_window_layers` on have, if any."""
    window, first = f.size("sliding_window", None), f.take("max_window_layers", None)
    if first is not None and not isinstance(first, int):
        raise ModelError(f"{f.path}: max_window_layers = {first!r}: must be a number of layers")
    used = f.flag("use_sliding_window", False) and bool(window)
    local = _local_layers(f, layers, lambda i: used and i >= (28 if first is None else first))
    return {"sliding_window": window, "local_layers": local} if used and local else {}


def _qwen2(f: _Fields) -> dict[str, Any]:
    f.ignore("use_mrope")  # of its multimodal relatives; text has one position
    fields = _common(f, tied=False)
    return fields | f.rope(1e4) | {"qkv_bias": True} | _qwen_window(f, fields["layers"])


def _qwen3(f: _Fields) -> dict[str, Any]:
    bias = f.flag("attention_bias", False)
    fields = _common(f, tied=False, head_dim=128)
    return fields | f.rope(1e4) | {"qkv_bias": bias, "o_bias": bias, "qk_norm": True} | _qwen_window(
        f, fields["layers"])


def _gemma3(f: _Fields) -> dict[str, Any]:
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        f.only(name, None)
    f.only("use_bidirectional_attention", False, None)
    bias = f.flag("attention_bias", False)
    fields = _common(f, tied=True, head_dim=256, activation=f.activation("hidden_activation", "gelu_pytorch_tanh"))
    period = f.size("sliding_window_pattern", None) or f.size("_sliding_window_pattern", None) or 6
    local = _local_layers(f, fields["layers"], lambda i: (i + 1) % period > 0)
    return fields | {
        "norm_offset": 1.0, "qkv_bias": bias, "o_bias": bias, "qk_norm": True, "post_norms": True,
        "embedding_scale": float(fields["width"]) ** 0.5,
        "attention_scale": max(f.number("query_pre_attn_scalar", 256), 1e-9) ** -0.5,
        **f.rope(1e6),
        "rope_local_theta": f.local_rope(1e4),
        "local_layers": local, "sliding_window": f.size("sliding_window", 4096) if local else 0}


#: What a multimodal Gemma 3 leaves out of its ``text_config``: the defaults of transformers' Gemma3TextConfig.
_GEMMA3_TEXT = {"vocab_size": 262208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                "max_position_embeddings": 131072, "rms_norm_eps": 1e-6}


def _gemma3_with_images(f: _Fields) -> dict[str, Any]:
    """The text model inside a multimodal Gemma 3."""
    f.ignore("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index",
             "image_token_id", "tie_word_embeddings")
    given = f.take("text_config")
    if not isinstance(given, dict):
        raise ModelError(f"{f.path}: text_config = {given!r} is not an object")
    text = _Fields(f.path, _GEMMA3_TEXT | given)
    fields = _gemma3(text)
    text.finish()
    return fields


def _gpt2(f: _Fields) -> dict[str, Any]:
    f.only("scale_attn_weights", True)
    f.only("scale_attn_by_inverse_layer_idx", False)
    f.only("add_cross_attention", False)
    f.ignore("reorder_and_upcast_attn", "resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "task_specific_params",
             "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
             "summary_use_proj", "gradient_checkpointing")
    width, heads = f.size("n_embd"), f.size("n_head")
    return {
        "layers": f.size("n_layer"), "width": width, "heads": heads, "kv_heads": heads,
        "head_dim": width // max(heads, 1), "ffn": f.size("n_inner", None) or 4 * width, "vocab": f.size("vocab_size"),
        "context": f.size("n_positions"), "norm_eps": f.number("layer_norm_epsilon", 1e-5),
        "tied": f.flag("tie_word_embeddings", True),
        "activation": f.activation("activation_function", "gelu_new"), **_LEARNED}


def _opt(f: _Fields) -> dict[str, Any]:
    f.only("do_layer_norm_before", True)
    f.only("_remove_final_layer_norm", False)
    f.only("layer_norm_elementwise_affine", True)
    f.only("enable_bias", True)
    f.ignore("activation_dropout", "layerdrop", "init_std")
    width, heads = f.size("hidden_size"), f.size("num_attention_heads")
    f.only("word_embed_proj_dim", width)
    return {
        "layers": f.size("num_hidden_layers"), "width": width, "heads": heads, "kv_heads": heads,
        "head_dim": width // max(heads, 1), "ffn": f.size("ffn_dim"), "vocab": f.size("vocab_size"),
        "context": f.size("max_position_embeddings"), "norm_eps": 1e-5, "position_offset": 2,
        "tied": f.flag("tie_word_embeddings", True), "activation": f.activation("activation_function", "relu"),
        **_LEARNED}


def _bitnet(f: _Fields) -> dict[str, Any]:
    f.only("attention_bias", False)
    f.ignore("quantization_config")  # says how the file holds the ternary weights (`bitlinear`)
    return _common(f, tied=False, activation=f.activation("hidden_act", "relu2")) | {
        **f.rope(5e5), "sub_norms": True}


def _hgrn_bit(f: _Fields) -> dict[str, Any]:
    """MatMul-free LM. Defaults are those of its own configuration class."""
    f.only("use_short_conv", False)
    f.only("hidden_act", "swish", "silu")
    f.only("tie_word_embeddings", False)  # the head is ternary, the embedding is not
    f.ignore("attn_mode", "conv_size", "conv_bias", "share_conv_kernel", "fuse_cross_entropy")
    width, expand, ratio = f.size("hidden_size"), f.number("expand_ratio", 1), f.number("hidden_ratio", 4) or 4.0
    heads = f.size("num_heads", 1)  # share the state, which is elementwise, and change nothing
    if not heads or width % heads or not 0 < width * expand < 1 << 24:
        raise ModelError(f"{f.path}: hidden_size = {width}, num_heads = {heads} and expand_ratio = {expand:g} do not "
                         "go together")
    state = int(width * expand)
    return {
        "layers": f.size("num_hidden_layers"), "width": width, "heads": 1, "kv_heads": 1, "head_dim": state,
        "ffn": f.size("intermediate_size", None) or 256 * math.ceil(int(width * ratio * 2 / 3) / 256),
        "vocab": f.size("vocab_size"), "context": f.size("max_position_embeddings", 2048),
        "norm_eps": f.number("rms_norm_eps", 1e-6), "rope_theta": 0.0, "tied": False, "positions": "none",
        "mixer": "mlgru", "linear_norms": True, "sub_norms": True, "lower_bounds": f.flag("use_lower_bound", True)}


#: What GPT-2 and OPT have in common.
_LEARNED: dict[str, Any] = {"norm": "layer", "mlp": "plain", "qkv_bias": True, "o_bias": True, "mlp_bias": True,
                            "positions": "learned", "rope_theta": 0.0}

ARCHITECTURES: dict[str, Callable[[_Fields], dict[str, Any]]] = {
    "llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3, "gemma3_text": _gemma3,
    "gemma3": _gemma3_with_images, "gpt2": _gpt2,
    "opt": _opt, "bitnet": _bitnet, "hgrn_bit": _hgrn_bit,
}


def read_json(folder: Path) -> dict[str, Any]:
    """config.json as it stands."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: {error}") from None
    if not isinstance(raw, dict) or str(raw.get("model_type")) not in ARCHITECTURES:
        kind = raw.get("model_type") if isinstance(raw, dict) else raw
        raise ModelError(f"{path}: model_type is {kind!r}; supported: {', '.join(ARCHITECTURES)}")
    return raw


def read_config(folder: Path) -> ModelConfig:
    """The `ModelConfig` of a folder with a config.json.

    Raises
    ------
    ModelError
        The file is missing or not JSON; the architecture, a field or its value is not supported; names which.
    """
    path, raw = folder / "config.json", read_json(folder)
    fields = _Fields(path, raw)
    values = ARCHITECTURES[raw["model_type"]](fields)
    fields.finish()
    eos = raw.get("eos_token_id", -1)
    config = ModelConfig(name=folder.name, eos=eos if isinstance(eos, int) else -1, **values)
    config.check(str(path))
    return config
