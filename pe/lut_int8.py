"""`lut` with tables rounded to INT8 (LUT Tensor Core, arXiv 2408.06003, Section on table quantisation): a unit, and
lossy.

All else in Wordline is exact inside a group; this is not, so it is a datatype of its own with its own reference,
and not a family that a configuration can choose. Each table of ``2**(k-1)`` sums has a scale of its own, here a
power of two, which costs a shift behind the multiplexer instead of a multiplication; the paper's is a float. What
it saves is width: an entry has 8 bits where an exact one of four 16-bit activations has 19.
"""

import numpy as np
from amaranth.hdl import Mux, Signal, Value, signed, unsigned
from amaranth.lib import data

from wordline.pe.datatypes import INT_BITS, PLANES, WeightKind
from wordline.pe.family import signed_bits
from wordline.pe.lut import LutColumn, TableFront
from wordline.pe.pipeline import register

TOP = 127


def quantise(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entries int64[..., n] of tables as codes of -127 to 127 and shifts int64[...]: the smallest shift with which no
    entry's magnitude needs more than 7 bits, rounding to nearest, halves up."""
    magnitudes = np.where(tables < 0, ~tables, tables).max(-1)
    bits = np.frexp(magnitudes.astype(np.float64))[1]
    shifts = np.maximum(bits - 7, 0)
    rounding = (1 << shifts) >> 1
    return np.clip((tables + rounding[..., None]) >> shifts[..., None], -TOP, TOP), shifts


class Int8TableFront(TableFront):
    """Rounds the tables, a cycle after they are made."""

    def store(self, m, entries, table, name):
        exact = [register(m, entry, f"{name}_{i}") for i, entry in enumerate(entries)]
        used = Signal(len(exact[0]) - 1, name=f"{name}_used")  # bits that some magnitude has
        magnitudes = [Mux(entry[-1], ~entry[:-1], entry[:-1]) for entry in exact]
        for magnitude in magnitudes:
            used = used | magnitude
        shift = Signal.like(table.shift, name=f"{name}_shift")
        for bit in range(7, len(magnitudes[0])):  # the highest wins
            with m.If(used[bit]):
                m.d.comb += shift.eq(bit - 6)
        codes = []
        for entry in exact:
            rounded = (entry + ((1 << shift) >> 1)) >> shift
            codes.append(Mux(rounded > TOP, TOP, Mux(rounded < -TOP, -TOP, rounded)))
        m.d.sync += [table.shift.eq(shift), *(table.codes[i].eq(code) for i, code in enumerate(codes))]
        return table.codes[len(codes) - 1] << table.shift


class LutInt8Column(LutColumn):
    """`LutColumn` on rounded tables, a cycle later. Twice the dot product need not be even any more: it is halved
    downwards.

    Raises
    ------
    ValueError
        The lanes are not whole tables.
    """

    FRONT = Int8TableFront
    TABLE_CYCLES = 2

    def __init__(self, **parameters):
        if parameters["lanes"] % self.k:
            raise ValueError(f"lanes must be a multiple of {self.k}, not {parameters['lanes']}")
        super().__init__(**parameters)

    @classmethod
    def table(cls, act_bits: int) -> data.Layout:
        most = max(1, signed_bits(cls.k << (act_bits - 1)) - 8)
        codes = data.ArrayLayout(signed(8), 1 << cls.k - 1)
        return data.StructLayout({"codes": codes, "shift": unsigned(most.bit_length())})

    @staticmethod
    def entry(table: data.View, index: Value, negative: Value) -> Value:
        code = table.codes[index]
        return Mux(negative, -code, code) << table.shift

    @classmethod
    def reference(cls, acts: np.ndarray, codes: np.ndarray, kind: WeightKind, select: int) -> np.ndarray:
        k, n = cls.k, 1 << cls.k - 1
        signs = np.concatenate([2 * (np.arange(n)[:, None] >> np.arange(k - 1) & 1) - 1, np.ones((n, 1), int)], 1)
        entries, shifts = quantise(acts.astype(np.int64).reshape(len(acts), -1, k) @ signs.T)
        tables = entries << shifts[..., None]
        # Planes as bits of the codes, and what each counts in twice the dot product.
        if kind in INT_BITS:
            bits = INT_BITS[kind]
            planes = [(codes >> p & 1, (1 << p) if p < bits - 1 else -(1 << p)) for p in range(bits)]
        elif kind is WeightKind.TERNARY:
            planes = [(1 - (codes & codes >> 1 & 1), 1), (codes & ~(codes >> 1) & 1, 1)]
        else:
            gaps = [0, select & 3, (select & 3) + (select >> 2)]
            planes = [(codes >> p & 1, 2 << gaps[p]) for p in range(PLANES.get(kind, 1))]
        total = -tables[..., -1].sum(1) if kind in INT_BITS else np.zeros(len(acts), np.int64)
        for bits_, weight in planes:
            index = bits_.reshape(-1, k).astype(np.int64) @ (1 << np.arange(k))
            negative = index < n
            picked = tables[:, np.arange(len(index)), np.where(negative, ~index, index) % n]
            total = total + weight * np.where(negative, -picked, picked).sum(1)
        return total >> 1
