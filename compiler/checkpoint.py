"""The safetensors of a model folder: one file, or several with an index; float32, float16 and bfloat16."""

import importlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wordline.compiler.architecture import ModelError

_FLOATS = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """Reads tensors by name, memory-mapped, one at a time.

    Raises
    ------
    ModelError
        A file is missing or damaged, on opening or on reading.
    """

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        self.path = folder / "model.safetensors"
        self._files: dict[str, Path] = {}  # tensor -> its file
        self._open: dict[Path, Any] = {}
        self._stack = ExitStack()
        if index.is_file() and not self.path.is_file():
            self.path = index
            files = {folder / name for name in _parts(index)}
        else:
            files = {self.path}
        for path in sorted(files):
            try:
                file = self._stack.enter_context(safe_open(str(path), framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{path}: cannot be read: {error}") from None
            self._open[path] = file
            twice = sorted(set(file.keys()) & set(self._files))
            if twice:
                raise ModelError(f"{path}: tensor {twice[0]} is in {self._files[twice[0]]} too")
            self._files |= dict.fromkeys(file.keys(), path)

    def _slice(self, name: str) -> Any:
        return self._open[self._files[name]].get_slice(name)

    def blank(self, name: str) -> np.ndarray:
        """Of the shape of a tensor, and float32 if it is a float; takes no memory. KeyError if there is none of that
        name."""
        part = self._slice(name)
        dtype = np.float32 if part.get_dtype() in _FLOATS else np.uint8
        return np.broadcast_to(np.zeros((), dtype), part.get_shape())

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def packed(self, name: str) -> bool:
        """Whether a tensor is of bytes; KeyError if there is none of that name."""
        return bool(self._slice(name).get_dtype() == "U8")

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32; KeyError if there is none of that name."""
        return self._read(name, _FLOATS).astype(np.float32, copy=False)

    def read_packed(self, name: str) -> np.ndarray:
        """A tensor of bytes as uint8."""
        return self._read(name, ("U8",))

    def _read(self, name: str, kinds: tuple[str, ...]) -> np.ndarray:
        try:
            kind = self._slice(name).get_dtype()
            if kind not in kinds:
                raise ModelError(f"{self._files[name]}: {name} is {kind}, not one of {', '.join(kinds)}")
            if kind == "BF16":
                importlib.import_module("ml_dtypes")  # gives numpy the type that safetensors asks it for
            return np.asarray(self._open[self._files[name]].get_tensor(name))
        except (SafetensorError, OSError, TypeError) as error:
            raise ModelError(f"{self._files[name]}: {name} cannot be read: {error}") from None

    def formats(self) -> str:
        """The types of the tensors: "F32" or "BF16, F32"."""
        return ", ".join(sorted({str(self._slice(name).get_dtype()) for name in self._files}))


def _parts(index: Path) -> set[str]:
    """The names of the files in an index; all lie beside it."""
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        outside = sorted(name for name in names if Path(name).name != name)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"{index}: cannot be read: {error!r}") from None
    if outside:
        raise ModelError(f"{index}: weight_map: {outside[0]!r} is not a file beside the index")
    return names
