"""Models as people have them on disk: a Hugging Face directory or a GGUF file of a decoder-only transformer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from wordline.compiler.architecture import ModelConfig, ModelError, expected_shapes
from wordline.compiler.bitlinear import TernaryCheckpoint
from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.checkpoint import Checkpoint
from wordline.compiler.config_json import read_config, read_json
from wordline.compiler.gguf_config import read_config as read_gguf_config
from wordline.compiler.gguf_file import GgufFile
from wordline.compiler.gguf_tensors import GgufTensors
from wordline.compiler.gguf_tokenizer import read_tokenizer
from wordline.compiler.tensors import tensor
from wordline.pe.quantize import QuantTensor

EMBEDDED = ("austen", "austen_ternary")


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of `expected_shapes`, float32, each read from its file when it is asked for.

    So that a model larger than memory can be quantised, none but vectors is kept.

    Parameters
    ----------
    blank : callable
        An array of the shape and type that the file says a tensor has; KeyError if it is not there.
    read : callable
        The tensor.

    Raises
    ------
    ModelError
        On construction: a tensor is missing, of another shape or no float. On reading: it is not finite.
    """

    def __init__(self, config: ModelConfig, path: Path, blank: Callable[[str], np.ndarray],
                 read: Callable[[str], np.ndarray]):
        self.path, self._read, self._shapes = path, read, expected_shapes(config)
        self._vectors: dict[str, np.ndarray] = {}
        for name, shape in self._shapes.items():
            try:
                there = blank(name)
            except KeyError as error:
                raise ModelError(f"{path}: tensor {error.args[0]} is missing") from None
            if there.shape != shape or there.dtype != np.float32:
                raise ModelError(f"{path}: {name} is {there.dtype} of shape {there.shape}, the model's configuration "
                                 f"says floats of {shape}")

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._vectors:
            return self._vectors[name]
        shape = self._shapes[name]
        x = np.ascontiguousarray(self._read(name))
        if not np.isfinite(x).all():
            at = np.argwhere(~np.isfinite(x))[0].tolist()
            raise ModelError(f"{self.path}: {name} holds values that are not finite, the first at {at}")
        if len(shape) == 1:
            self._vectors[name] = x
        return x

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes


@dataclass(frozen=True)
class Model:
    """A model's shape, tensors (float32, under their Hugging Face names) and tokenizer.

    Of a model whose shape alone is known there are no tensors and no tokenizer.

    Attributes
    ----------
    folder : Path
        Where its files lie.
    precision : str
        The number formats of its file.
    quantised : Mapping[str, QuantTensor]
        Matrices that a quantiser has rounded, under the compiler's names for them ("layer 3 qkv").
    """

    config: ModelConfig
    tensors: Mapping[str, np.ndarray]
    vocabulary: Tokenizer | None
    folder: Path
    precision: str = ""
    quantised: Mapping[str, QuantTensor] = field(default_factory=dict)

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
    """The folder or GGUF file that `name` means: a path, or the name of a model that ships with Wordline or that has
    been fetched."""
    path = Path(name)
    if (path / "config.json").is_file() or (path.suffix == ".gguf" and path.is_file()):
        return path
    if str(name) in EMBEDDED:
        return Path(str(resources.files("wordline.compiler"))) / "models" / str(name)
    if str(name) in CATALOGUE:
        known = CATALOGUE[str(name)]
        if not known.fetched:
            raise ModelError(f"model {known.name} has not been fetched: run `wordline models get {known.name}`")
        return known.path
    raise ModelError(f"no model {str(name)!r}: not a folder with a config.json, not a .gguf file, and not one of "
                     f"{[*EMBEDDED, *CATALOGUE]}")


def find_config(name: str | Path) -> ModelConfig:
    """The shape of a model on disk."""
    path = find_model(name)
    return read_gguf_config(GgufFile(path)) if path.suffix == ".gguf" else read_config(path)


def load_model(name: str | Path) -> Model:
    """A Hugging Face folder (config.json, model.safetensors or its parts and their index, tokenizer.json) or a GGUF
    file.

    Raises
    ------
    ModelError
        A file is missing or damaged, the architecture, a field or reading its weights is not supported, a
        tensor is missing or of the wrong shape, or the tokenizer does not go with the model.
    """
    path = find_model(name)
    return _load_gguf(path) if path.suffix == ".gguf" else _load_folder(path)


def _load_folder(folder: Path) -> Model:
    config, raw = read_config(folder), read_json(folder)
    kind, file = raw["model_type"], Checkpoint(folder)
    source = TernaryCheckpoint(file, kind, raw) if kind in ("bitnet", "hgrn_bit") else file
    tensors = Tensors(config, file.path, lambda key: tensor(kind, config, key, source.blank),
                      lambda key: tensor(kind, config, key, source.read))
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"{path}: {error}") from None
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= largest < config.vocab:
        raise ModelError(f"{path}: the largest token is {largest}, but config.json says vocab_size {config.vocab}")
    return Model(config, tensors, tokenizer, folder, file.formats())


def _load_gguf(path: Path) -> Model:
    file = GgufFile(path)
    config = read_gguf_config(file)
    source = GgufTensors(file, config)
    tensors = Tensors(config, path, lambda key: np.broadcast_to(np.float32(0), source.shape(key)), source.read)
    return Model(config, tensors, read_tokenizer(file, config.vocab), path.parent, file.formats())


__all__ = ["EMBEDDED", "Model", "ModelConfig", "ModelError", "find_config", "find_model", "load_model", "read_config"]
