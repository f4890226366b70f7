"""The safetensors of a model folder: one file, or several with an index; float32, float16 and bfloat16."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from wordline.compiler.architecture import ModelError


class Checkpoint:
    """Reads tensors by name; a context manager.

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
            try:
                files = {folder / name for name in json.loads(index.read_text())["weight_map"].values()}
            except (OSError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
                raise ModelError(f"{index}: cannot be read: {error!r}") from None
        else:
            files = {self.path}
        for path in sorted(files):
            try:
                file = self._stack.enter_context(safe_open(str(path), framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{path}: cannot be read: {error}") from None
            self._open[path] = file
            self._files |= dict.fromkeys(file.keys(), path)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32, or as it is if it is no float; KeyError if there is none of that name."""
        path = self._files[name]
        try:
            part = self._open[path].get_slice(name)
            if part.get_dtype() == "BF16":
                return _bfloat16(path, name)
            tensor = self._open[path].get_tensor(name)
        except (SafetensorError, OSError, TypeError) as error:
            raise ModelError(f"{path}: {name} cannot be read: {error}") from None
        return tensor.astype(np.float32) if tensor.dtype.kind == "f" else tensor


def _bfloat16(path: Path, name: str) -> np.ndarray:
    """numpy has no bfloat16, so the bytes are read here: a 64-bit length, a JSON header of that length, the data.
    bfloat16 is the upper half of float32."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[name]
        start, end = entry["data_offsets"]
        file.seek(8 + size + start)
        raw = np.frombuffer(file.read(end - start), "<u2")
    return (raw.astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
