"""Models as people have them on disk: a Hugging Face directory of a Llama-architecture model."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

EMBEDDED = ("austen",)

#: Fields of config.json that do not change the mathematics of inference.
_IGNORED = {
    "architectures", "model_type", "bos_token_id", "eos_token_id", "pad_token_id", "torch_dtype", "dtype",
    "transformers_version", "use_cache", "initializer_range", "attention_dropout", "_name_or_path",
    "pretraining_tp", "is_llama_config", "rope_interleaved", "transformers.js_config", "hidden_dropout",
}
_REQUIRED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}


class ModelError(ValueError):
    """A model that cannot be read or that Wordline does not support; says which file and field."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama-architecture model: RMSNorm, RoPE, grouped-query attention, SwiGLU."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    tied: bool
    eos: int = -1

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class Model:
    """A model's shape, tensors (float32, under their Hugging Face names) and tokenizer.

    Of a model whose shape alone is known there are no tensors and no tokenizer.
    """

    config: ModelConfig
    tensors: dict[str, np.ndarray]
    vocabulary: Tokenizer | None
    folder: Path

    @property
    def tokenizer(self) -> Tokenizer:
        if self.vocabulary is None:
            raise ModelError(f"{self.config.name} is a shape without weights and tokenizer: it can be timed, not run")
        return self.vocabulary

    def layer(self, i: int, name: str) -> np.ndarray:
        return self.tensors[f"model.layers.{i}.{name}.weight"]

    @property
    def shape_only(self) -> bool:
        """Nothing but the shape is known: it can be timed, and not run."""
        return not self.tensors

    @property
    def embedding(self) -> np.ndarray:
        return self.tensors["model.embed_tokens.weight"]

    @property
    def head_name(self) -> str:
        return "model.embed_tokens.weight" if self.config.tied else "lm_head.weight"

    @property
    def head(self) -> np.ndarray:
        return self.tensors[self.head_name]


def find_model(name: str | Path) -> Path:
    """The folder that `name` means: a path, or the name of a model that ships with Wordline."""
    path = Path(name)
    if (path / "config.json").is_file():
        return path
    if str(name) in EMBEDDED:
        return Path(str(resources.files("wordline.compiler"))) / "models" / str(name)
    raise ModelError(f"no model {str(name)!r}: not a folder with a config.json, and not one of "
                     f"{list(EMBEDDED)}")


def read_config(folder: Path) -> ModelConfig:
    """config.json, every field understood or refused by name."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: {error}") from None
    if raw.get("model_type") != "llama":
        raise ModelError(f"{path}: model_type is {raw.get('model_type')!r}; supported: 'llama'")
    for key, value in _REQUIRED.items():
        if raw.get(key, value) != value:
            raise ModelError(f"{path}: {key} = {raw[key]!r} is not supported, only {value!r}")
    names = {"layers": "num_hidden_layers", "width": "hidden_size", "heads": "num_attention_heads",
             "ffn": "intermediate_size", "vocab": "vocab_size", "context": "max_position_embeddings",
             "norm_eps": "rms_norm_eps"}
    missing = [key for key in names.values() if key not in raw]
    if missing:
        raise ModelError(f"{path}: {missing[0]} is missing")
    known = set(names.values()) | set(_REQUIRED) | _IGNORED | {
        "num_key_value_heads", "head_dim", "rope_theta", "tie_word_embeddings"}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ModelError(f"{path}: field {unknown[0]!r} is not understood, so the result could be wrong")
    fields = {ours: raw[theirs] for ours, theirs in names.items()}
    eos = raw.get("eos_token_id", -1)
    config = ModelConfig(
        name=folder.name, kv_heads=raw.get("num_key_value_heads", raw["num_attention_heads"]),
        head_dim=raw.get("head_dim") or raw["hidden_size"] // raw["num_attention_heads"],
        rope_theta=float(raw.get("rope_theta", 10000.0)), tied=raw.get("tie_word_embeddings", False),
        eos=eos if isinstance(eos, int) else -1, **fields)
    if config.heads % config.kv_heads or config.head_dim % 2:
        raise ModelError(f"{path}: {config.heads} heads of {config.head_dim} cannot share "
                         f"{config.kv_heads} key-value heads")
    return config


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the architecture has, and its shape."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab, c.width),
                                          "model.norm.weight": (c.width,)}
    if not c.tied:
        shapes["lm_head.weight"] = (c.vocab, c.width)
    for i in range(c.layers):
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer_shapes(c).items()}
    return shapes


def layer_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer, and their shapes."""
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return {"self_attn.q_proj": (q, c.width), "self_attn.k_proj": (kv, c.width), "self_attn.v_proj": (kv, c.width),
            "self_attn.o_proj": (c.width, q), "mlp.gate_proj": (c.ffn, c.width), "mlp.up_proj": (c.ffn, c.width),
            "mlp.down_proj": (c.width, c.ffn), "input_layernorm": (c.width,), "post_attention_layernorm": (c.width,)}


def load_model(name: str | Path) -> Model:
    """Read a model folder: config.json, model.safetensors, tokenizer.json.

    Raises
    ------
    ModelError
        A file is missing or damaged, the architecture or a field is not supported, or a tensor is
        missing, of the wrong shape, or not finite.
    """
    folder = find_model(name)
    config = read_config(folder)
    path = folder / "model.safetensors"
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(str(path), framework="numpy") as file:
            names = set(file.keys())
            for key, shape in expected_shapes(config).items():
                if key not in names:
                    raise ModelError(f"{path}: tensor {key} is missing")
                tensor = file.get_tensor(key)
                if tensor.shape != shape:
                    raise ModelError(f"{path}: {key} has shape {tensor.shape}, config.json says {shape}")
                tensors[key] = tensor.astype(np.float32)
                if not np.isfinite(tensors[key]).all():
                    raise ModelError(f"{path}: {key} holds values that are not finite")
    except (SafetensorError, OSError, TypeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}") from None
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"{folder / 'tokenizer.json'}: {error}") from None
    if tokenizer.get_vocab_size() > config.vocab:
        raise ModelError(f"{folder / 'tokenizer.json'}: {tokenizer.get_vocab_size()} tokens, but "
                         f"config.json says vocab_size {config.vocab}")
    return Model(config, tensors, tokenizer, folder)
