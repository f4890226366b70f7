"""Models as people have them on disk: a Hugging Face directory of a decoder-only transformer."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from wordline.compiler.architecture import ModelConfig, ModelError, expected_shapes
from wordline.compiler.checkpoint import Checkpoint
from wordline.compiler.config_json import read_config, read_json
from wordline.compiler.tensors import tensor

EMBEDDED = ("austen",)


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

    def layer(self, i: int, name: str, kind: str = "weight") -> np.ndarray:
        return self.tensors[f"model.layers.{i}.{name}.{kind}"]

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


def load_model(name: str | Path) -> Model:
    """Read a model folder: config.json, model.safetensors (or its parts and their index), tokenizer.json.

    Raises
    ------
    ModelError
        A file is missing or damaged, the architecture, a field or reading its weights is not supported, or a
        tensor is missing, of the wrong shape, or not finite.
    """
    folder = find_model(name)
    config, kind = read_config(folder), read_json(folder)["model_type"]
    tensors: dict[str, np.ndarray] = {}
    with Checkpoint(folder) as file:
        for key, shape in expected_shapes(config).items():
            try:
                raw = tensor(kind, config, key, file.read)
            except KeyError as error:
                raise ModelError(f"{file.path}: tensor {error.args[0]} is missing") from None
            if raw.shape != shape or raw.dtype != np.float32:
                raise ModelError(f"{file.path}: {key} is {raw.dtype} of shape {raw.shape}, config.json says floats of "
                                 f"{shape}")
            tensors[key] = np.ascontiguousarray(raw)
            if not np.isfinite(raw).all():
                raise ModelError(f"{file.path}: {key} holds values that are not finite")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"{folder / 'tokenizer.json'}: {error}") from None
    if tokenizer.get_vocab_size() > config.vocab:
        raise ModelError(f"{folder / 'tokenizer.json'}: {tokenizer.get_vocab_size()} tokens, but "
                         f"config.json says vocab_size {config.vocab}")
    return Model(config, tensors, tokenizer, folder)


__all__ = ["EMBEDDED", "Model", "ModelConfig", "ModelError", "find_model", "load_model", "read_config"]
