"""What every family of processing elements offers, and the registry of families.

A family builds a *column*: one output channel for `rows` tokens. The weight operand of a step (`lanes`
codes along K) is decoded once and shared by the rows; each row forms an exact integer dot product over
a group. A new family is one file with a `PeColumn` subclass, and one line in `FAMILIES`.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.datatypes import WeightKind, decode_table, max_value


@dataclass(frozen=True)
class Timing:
    """`interval`: cycles from one accepted step to the next. `latency`: from the acceptance of a group's
    last step to ``dots.valid``, when nothing stalls."""

    interval: int
    latency: int


def signed_bits(magnitude: int) -> int:
    """Bits of a two's complement number that holds -magnitude .. magnitude."""
    return magnitude.bit_length() + 1


def dot_bits(act_bits: int, kinds: frozenset[WeightKind], group_max: int) -> int:
    """Width of the dot product of a group of `group_max` elements."""
    return signed_bits(group_max * max(max_value(kind) for kind in kinds) << (act_bits - 1))


class PeColumn(wiring.Component):
    """A column of `rows` PEs behind the signature that all families share.

    Parameters
    ----------
    rows, lanes : int
        Tokens served at once, and products along K per step.
    act_bits : int
        Width of the activations, two's complement.
    kinds : frozenset[WeightKind]
        What the column must decode; other kinds get no hardware.
    group_max : int
        Elements of K in the largest group: sets the width of a dot product.

    Members
    -------
    acts : ``In(stream)`` of ``[rows][lanes]`` activations
    weights : ``In(stream)`` of one step's codes (low bits of 8), their kind, the group's special-value
        select, and whether this step ends the group. A step is taken from both streams at once.
    dots : ``Out(stream)`` of ``[rows]`` exact group dot products, one transfer a group. While one is not
        taken, the column stands still.

    Raises
    ------
    ValueError
        A parameter is out of its domain.
    """

    acts: stream.Interface
    weights: stream.Interface
    dots: stream.Interface

    def __init__(self, *, rows: int, lanes: int, act_bits: int, kinds: frozenset[WeightKind],
                 group_max: int):
        if rows < 1 or lanes < 1:
            raise ValueError(f"rows and lanes must be at least 1, not {rows} and {lanes}")
        if act_bits not in (4, 8, 16):
            raise ValueError(f"act_bits must be 4, 8 or 16, not {act_bits}")
        if not kinds:
            raise ValueError("kinds must name at least one WeightKind")
        if group_max < lanes:
            raise ValueError(f"group_max must be at least one step of {lanes} lanes, not {group_max}")
        self.rows, self.lanes, self.act_bits, self.kinds = rows, lanes, act_bits, kinds
        self.dot_bits = dot_bits(act_bits, kinds, group_max)
        step = data.StructLayout({
            "codes": data.ArrayLayout(unsigned(8), lanes),
            "kind": WeightKind,
            "select": unsigned(2),
            "last": unsigned(1),
        })
        super().__init__({
            "acts": In(stream.Signature(data.ArrayLayout(data.ArrayLayout(signed(act_bits), lanes), rows))),
            "weights": In(stream.Signature(step)),
            "dots": Out(stream.Signature(data.ArrayLayout(signed(self.dot_bits), rows))),
        })

    @classmethod
    def timing(cls, kind: WeightKind, lanes: int) -> Timing:
        """Declared timing; the bench measures that it is true."""
        raise NotImplementedError

    @staticmethod
    def reference(acts: np.ndarray, codes: np.ndarray, kind: WeightKind, select: int) -> np.ndarray:
        """int64[rows]: the dot product of int[rows, K] with uint8 codes [K]."""
        return acts.astype(np.int64) @ decode_table(kind, select)[codes].astype(np.int64)


def adder_tree(m: Module, terms: list, enable, name: str):
    """The sum of `terms`, four at a time with a register behind each level: (sum, levels)."""
    levels = 0
    while len(terms) > 1:
        sums = []
        for i in range(0, len(terms), 4):
            total = sum(terms[i + 1 : i + 4], terms[i])
            register = Signal(total.shape(), name=f"{name}_{levels}_{i // 4}")
            with m.If(enable):
                m.d.sync += register.eq(total)
            sums.append(register)
        terms = sums
        levels += 1
    return terms[0], levels


def tree_levels(lanes: int) -> int:
    levels = 0
    while lanes > 1:
        lanes = -(-lanes // 4)
        levels += 1
    return levels


#: Family name -> "module:class". A family is imported when it is asked for.
FAMILIES: dict[str, str] = {
    "mac": "wordline.pe.mac:MacColumn",
    "bit_serial": "wordline.pe.bit_serial:BitSerialColumn",
}


def family(name: str) -> type[PeColumn]:
    """The column class of a family.

    Raises
    ------
    KeyError
        No family has this name.
    """
    module, _, cls = FAMILIES[name].partition(":")
    return getattr(import_module(module), cls)
