"""The processing elements that `wordline pe area` compares: what each is made of and how much it computes.

A point is one unit with one weight datatype, cut into parts, so that what papers leave out of an area can be shown
apart: encoders that rows share, the making of tables, dequantisers, registers of operands that neighbours share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.bit_serial import Term, encode_term
from wordline.pe.datatypes import KIND_BITS, WeightKind
from wordline.pe.dequant import GroupDequant, bits_per_cycle
from wordline.pe.family import FAMILIES, PeColumn, dot_bits, family, signed_bits
from wordline.pe.mac import decode_weight

#: Shape of the columns compared: tokens, products a step, bits of an activation, weights in a group.
ROWS, LANES, ACT_BITS, GROUP = 4, 4, 8, 128

#: Columns that share a family's front, as LUT Tensor Core's tile M2N64K4 has.
COLUMNS = 64

#: Name of the point that all others are compared with.
YARDSTICK = "fp16_mac fp16 x fp16, 1 lane"

Role = Literal["pe", "inside", "outside"]


@dataclass(frozen=True)
class Part:
    """`count` copies of a circuit. `role`: the PE itself; a part that the PE holds, measured apart as well; or one
    that stands outside it, of which `count` is this unit's share if others use it too."""

    name: str
    count: float
    build: Callable[[], wiring.Component]
    role: Role = "pe"


@dataclass(frozen=True)
class Point:
    """A unit. `macs` are products of a weight and an activation per cycle; `claim` is what its paper says."""

    family: str
    weights: str
    weight_bits: float
    acts: str
    macs: float
    parts: tuple[Part, ...]
    unit: str
    claim: str = ""

    @property
    def name(self) -> str:
        return f"{self.family} {self.weights} x {self.acts}, {self.unit}"


class TermEncoder(wiring.Component):
    """The encoder of `bit_serial` for one lane, which all rows share."""

    def __init__(self, kind: WeightKind):
        self.kind = kind
        super().__init__({"code": In(8), "select": In(2), "index": In(2), "term": Out(Term)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.term.eq(encode_term(m, self.code, self.kind, self.select, self.index,
                                             frozenset({self.kind}), "encoded"))
        return m


class WeightDecoder(wiring.Component):
    """The decoder of `mac` for one lane, which all rows share."""

    def __init__(self, kind: WeightKind):
        self.kind = kind
        super().__init__({"code": In(8), "select": In(2), "value": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.value.eq(decode_weight(m, self.code, self.kind, self.select,
                                                frozenset({self.kind}), "decoded"))
        return m


def column_points() -> list[Point]:
    """Every family of the array with every kind that it decodes, integer activations."""
    return [column_point(name, kind) for name in FAMILIES for kind in sorted(family(name).KINDS)]


def column_point(name: str, kind: WeightKind) -> Point:
    cls = family(name)
    kinds = frozenset({kind})

    def column() -> PeColumn:
        return cls(rows=ROWS, lanes=LANES, act_bits=ACT_BITS, kinds=kinds, group_max=GROUP)

    interval = cls.timing(kind, LANES, ACT_BITS).interval
    rate = bits_per_cycle(GROUP // LANES * interval)

    def dequant() -> GroupDequant:
        return GroupDequant(rows=ROWS, dot_bits=dot_bits(ACT_BITS, kinds, GROUP),
                            sum_bits=signed_bits(GROUP << (ACT_BITS - 1)), rate=rate, asymmetric=False)

    parts = [Part("column", 1, column), Part("dequantiser", 1, dequant, "outside")]
    front = cls.FRONT
    if front:
        parts.append(Part("front", 1 / COLUMNS, lambda: front(cls, rows=ROWS, lanes=LANES, act_bits=ACT_BITS),
                          "outside"))
    if name == "bit_serial":
        parts.append(Part("encoders", LANES, lambda: TermEncoder(kind), "inside"))
    if name == "mac" and kind in (WeightKind.FP4, WeightKind.FP3):
        parts.append(Part("decoders", LANES, lambda: WeightDecoder(kind), "inside"))
    return Point(name, kind.name.lower(), KIND_BITS[kind], f"int{ACT_BITS}", ROWS * LANES / interval, tuple(parts),
                 f"{ROWS} rows of {LANES} lanes")


def all_points() -> list[Point]:
    return column_points()
