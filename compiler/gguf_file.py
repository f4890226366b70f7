"""GGUF files: metadata and tensors, memory-mapped, one tensor at a time.

The layout is that of the GGUF specification, versions 2 and 3, little-endian: magic, version, numbers of tensors and of
metadata entries, the entries, a description of every tensor, padding, data. Every length is checked against the file
before anything is allocated, so a hostile file costs no more than a good one of its size. Blocks become float32 through
the `gguf` package's dequantisers. Its own reader builds numpy objects of every string of the vocabulary, which
takes 16 s for Gemma's; this one takes half a second.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wordline.compiler.architecture import ModelError

_MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
#: Formats that become floats. The rest (IQ types, integers) are refused by name.
FORMATS = ("F32", "F16", "BF16", "F64", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
           "TQ1_0", "TQ2_0", "MXFP4")
_ROWS = 1 << 22  # elements dequantised at once, which bounds the temporary memory


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies in its file: its format's name, shape (numpy's order), first byte and number of bytes."""

    format: str
    shape: tuple[int, ...]
    start: int
    size: int


class GgufFile:
    """An open GGUF file.

    Attributes
    ----------
    metadata : dict[str, Any]
        Numbers, truth values, strings, and lists of them.
    tensors : dict[str, GgufTensor]

    Raises
    ------
    ModelError
        The file is missing, cut short or inconsistent; names the file and the field.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise ModelError(f"{path}: cannot be read: {error}") from None
        self._at = 0
        self._field = "header"
        magic, version = self._bytes(4), self._number("I")
        if magic != _MAGIC:
            raise self._error(f"begins with {magic!r}, a GGUF file with {_MAGIC!r}")
        if version not in (2, 3):
            big = " (big-endian files are not supported)" if version & 0xFFFF == 0 else ""
            raise self._error(f"GGUF version {version} is not supported, only 2 and 3{big}")
        tensors, entries = self._number("Q"), self._number("Q")
        # An entry takes at least 13 bytes (name's length, type, a byte), a tensor at least 24.
        for what, count, least in (("metadata entries", entries, 13), ("tensors", tensors, 24)):
            if count * least > len(self._map):
                raise self._error(f"{count} {what} cannot be in a file of {len(self._map)} bytes")
        self.metadata: dict[str, Any] = dict(self._entries(entries))
        self.tensors: dict[str, GgufTensor] = self._tensors(tensors)

    def _error(self, message: str) -> ModelError:
        return ModelError(f"{self.path}: {self._field}: {message}")

    # --- Reading from the front.

    def _bytes(self, size: int) -> bytes:
        if size > len(self._map) - self._at:
            raise self._error(f"{size} bytes are needed at byte {self._at}, the file ends at {len(self._map)}")
        self._at += size
        return self._map[self._at - size : self._at]

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._bytes(struct.calcsize(f"<{code}")))[0]

    def _string(self) -> str:
        try:
            return self._bytes(self._number("Q")).decode()
        except UnicodeDecodeError:
            raise self._error("a string is not UTF-8") from None

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise self._error(f"metadata of type {kind} is not known")
        element, count = self._number("I"), self._number("Q")
        if element in _SCALARS:
            code = _SCALARS[element]
            return list(struct.unpack(f"<{count}{code}", self._bytes(count * struct.calcsize(f"<{code}"))))
        if element != _STRING:
            raise self._error(f"an array of type {element} is not supported")
        if count * 8 > len(self._map) - self._at:
            raise self._error(f"an array of {count} strings cannot be in a file of {len(self._map)} bytes")
        return [self._string() for _ in range(count)]

    def _entries(self, count: int) -> Iterator[tuple[str, Any]]:
        seen = set()
        for i in range(count):
            self._field = f"metadata entry {i}"
            name = self._string()
            self._field = f"metadata {name!r}"
            if name in seen:
                raise self._error("is there twice")
            seen.add(name)
            yield name, self._value(self._number("I"))

    def _tensors(self, count: int) -> dict[str, GgufTensor]:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        for i in range(count):
            self._field = f"tensor {i}"
            name = self._string()
            self._field = f"tensor {name!r}"
            if name in found:
                raise self._error("is there twice")
            dimensions = self._number("I")
            if not 1 <= dimensions <= _MAX_DIMENSIONS:
                raise self._error(f"{dimensions} dimensions are not supported, only 1 to {_MAX_DIMENSIONS}")
            shape = tuple(self._number("Q") for _ in range(dimensions))[::-1]
            kind, offset = self._number("I"), self._number("Q")
            try:
                format_ = GGMLQuantizationType(kind)
            except ValueError:
                raise self._error(f"format {kind} is not known") from None
            if format_.name not in FORMATS:
                raise self._error(f"format {format_.name} is not supported, only one of {', '.join(FORMATS)}")
            block, size = GGML_QUANT_SIZES[format_]
            if not math.prod(shape) or shape[-1] % block:
                raise self._error(f"of shape {shape}: rows must be whole blocks of {block} in {format_.name}")
            found[name] = (format_.name, shape, offset, math.prod(shape) // block * size)
        self._field = "metadata 'general.alignment'"
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise self._error(f"{alignment!r} is not a power of two up to 1048576")
        start = -(-self._at // alignment) * alignment
        return self._placed(found, start, alignment)

    def _placed(self, found: dict[str, tuple[str, tuple[int, ...], int, int]], start: int,
                alignment: int) -> dict[str, GgufTensor]:
        """Tensors by their place in the file, which no two share."""
        end, last = 0, ""
        for name, (_, shape, offset, size) in sorted(found.items(), key=lambda item: item[1][2]):
            self._field = f"tensor {name!r}"
            if offset % alignment:
                raise self._error(f"its offset {offset} is not a multiple of {alignment}")
            if offset < end:
                raise self._error(f"its data at offset {offset} overlaps that of {last!r}, which ends at {end}")
            end, last = offset + size, name
            if start + end > len(self._map):
                raise self._error(f"its data of shape {shape} ends at byte {start + end}, the file at {len(self._map)}")
        return {name: GgufTensor(kind, shape, start + offset, size)
                for name, (kind, shape, offset, size) in found.items()}

    # --- Tensors.

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32; KeyError if there is none of that name."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        t = self.tensors[name]
        rows, width = math.prod(t.shape[:-1]), t.shape[-1]
        raw = np.frombuffer(self._map, np.uint8, t.size, t.start).reshape(rows, -1)
        if t.format == "F64":
            return raw.view("<f8").astype(np.float32).reshape(t.shape)
        out = np.empty((rows, width), np.float32)
        step = max(1, _ROWS // width)
        with np.errstate(all="ignore"):  # what is not finite is found by whoever reads
            for i in range(0, rows, step):
                out[i : i + step] = dequantize(raw[i : i + step], GGMLQuantizationType[t.format])
        return out.reshape(t.shape)

    def formats(self) -> str:
        """The formats of the file's matrices, the most frequent (by elements) first: "Q4_1, Q8_0"."""
        elements: dict[str, int] = {}
        for t in self.tensors.values():
            if len(t.shape) > 1:
                elements[t.format] = elements.get(t.format, 0) + math.prod(t.shape)
        return ", ".join(sorted(elements, key=lambda name: -elements[name]))
