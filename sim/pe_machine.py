"""A column of processing elements, Verilated: any number of groups through it, with or without stalls."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.back import verilog

from wordline.pe.family import CompleteColumn, PeColumn
from wordline.sim import verilated

FAULTS = {1: "a dot product too many came out", 2: "dot products are missing",
          3: "a step was taken from one stream alone", 4: "a dot product changed before it was taken"}


class ColumnFault(RuntimeError):
    """A column that breaks the rules of its streams."""


@dataclass(frozen=True)
class Run:
    """Cycles in which steps were taken and dot products came, and int64[groups, rows] of these."""

    taken: np.ndarray
    came: np.ndarray
    dots: np.ndarray


class ColumnMachine:
    """The Verilated column; compiled on first use, then in the cache."""

    def __init__(self, pe: PeColumn, say: Callable[[], object] = lambda: None):
        self.pe = pe
        text = verilog.convert(CompleteColumn(pe), name="column", emit_src=False)
        here = Path(__file__).parent
        self._library = library = ctypes.CDLL(str(verilated.library(
            {"column.v": text}, "column", here / "pe_harness.cpp", say=say)))
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        library.column_new.restype = pointer
        library.column_free.argtypes = [pointer]
        library.column_bytes.restype, library.column_bytes.argtypes = number, [ctypes.c_int]
        library.column_run.argtypes = [pointer, number, pointer, pointer, number, pointer, ctypes.c_uint64, pointer,
                                       pointer, pointer, number]
        self._column = library.column_new()
        self._bytes = [library.column_bytes(i) for i in range(3)]

    def __del__(self):
        if getattr(self, "_column", None):
            self._library.column_free(self._column)

    def pack(self, acts: np.ndarray) -> np.ndarray:
        """uint8[steps, bytes] of int[steps, rows, lanes]."""
        return _packed([acts.reshape(len(acts), -1)], [self.pe.act_bits], self._bytes[0])

    def run(self, acts: np.ndarray, codes: np.ndarray, kinds: np.ndarray, selects: np.ndarray, last: np.ndarray, *,
            hold: tuple[float, float, float] = (0, 0, 0), seed: int = 0) -> Run:
        """Steps through the column, one after the other.

        Parameters
        ----------
        acts : uint8[steps, bytes]
            From `pack`.
        codes : uint8[steps, lanes]
        kinds, selects, last : int[steps]
            Kind and select of a step, and whether it ends its group.
        hold : probability that acts, weights, dots hold back in a cycle

        Raises
        ------
        ColumnFault
            The column breaks the rules of its streams, or loses or invents dot products.
        """
        pe, steps, groups = self.pe, len(codes), int(last.sum())
        a = np.ascontiguousarray(acts)
        w = _packed([codes, kinds[:, None], selects[:, None], last[:, None]], [8, 4, 4, 1], self._bytes[1])
        taken, came = np.zeros(steps, np.int64), np.zeros(groups, np.int64)
        raw = np.zeros((groups, self._bytes[2]), np.uint8)
        slowest = max(pe.timing(kind, pe.lanes, pe.act_bits).latency for kind in pe.kinds)
        fault = self._library.column_run(
            self._column, steps, a.ctypes.data, w.ctypes.data, groups, (ctypes.c_double * 3)(*hold), seed,
            taken.ctypes.data, came.ctypes.data, raw.ctypes.data, 1000 + 100 * slowest)
        if fault:
            raise ColumnFault(f"{FAULTS[fault]} (step {np.count_nonzero(taken)} of {steps})")
        return Run(taken, came, _unpacked(raw, pe.rows, pe.dot_bits))


def _packed(fields: list[np.ndarray], widths: list[int], size: int) -> np.ndarray:
    """uint8[steps, size]: the fields [steps, n] of so many bits each, one behind the other, the lowest bit first."""
    bits = [(field[..., None] >> np.arange(width) & 1).astype(np.uint8).reshape(len(field), -1)
            for field, width in zip(fields, widths, strict=True)]
    raw = np.packbits(np.concatenate(bits, 1), axis=1, bitorder="little")
    return np.ascontiguousarray(np.pad(raw, ((0, 0), (0, size - raw.shape[1]))))


def _unpacked(raw: np.ndarray, count: int, width: int) -> np.ndarray:
    """int64[n, count] of two's complement numbers of `width` bits."""
    bits = np.unpackbits(raw, axis=1, bitorder="little")[:, : count * width].reshape(len(raw), count, width)
    weights = np.left_shift(1, np.arange(width, dtype=np.int64))
    weights[-1] = -weights[-1]
    return bits.astype(np.int64) @ weights
