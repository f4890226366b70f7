"""The processing elements that `wordline pe area` compares: what each is made of and how much it computes.

A point is one unit with one weight datatype, cut into parts, so that what papers leave out of an area can be shown
apart: encoders that rows share, the making of tables, dequantisers, registers of operands that neighbours share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe import fp16_dot, lut_fp16
from wordline.pe.bit_serial import FLOATS, TERMS, Term, encode_term
from wordline.pe.bit_serial_fp16 import LANES as FP16_LANES
from wordline.pe.bit_serial_fp16 import BitSerialFp16, SerialScale
from wordline.pe.datatypes import KIND_BITS, WeightKind
from wordline.pe.dequant import GroupDequant, bits_per_cycle
from wordline.pe.family import FAMILIES, dot_bits, family, signed_bits
from wordline.pe.fp16_mac import Fp16Mac
from wordline.pe.lut_ladder import Step, Table, TileColumn
from wordline.pe.mac import decode_weight
from wordline.pe.shift_add_fp16 import ShiftAddFp16

#: Shape of the columns compared: tokens, products a step, bits of an activation, weights in a group.
ROWS, LANES, ACT_BITS, GROUP = 4, 4, 8, 128
#: Columns that share what an array has once for all of them, as in configs/bitmod.toml; LUT Tensor Core has 64.
COLUMNS, LUT_COLUMNS = 8, 64
#: BitMoD's tile of PEs (HPCA 2025, Table X): rows of FP16's and of its own, columns of both.
FP16_TILE_ROWS, BITMOD_TILE_ROWS, TILE_COLUMNS = 6, 8, 8
#: What BitMoD's encoder understands.
BITMOD_KINDS = (WeightKind.INT8, WeightKind.INT6, WeightKind.FP4, WeightKind.FP3)
#: Widths that every family which decodes them is compared at.
COMPARED = {WeightKind.TERNARY, WeightKind.INT2, WeightKind.INT4, WeightKind.INT8, WeightKind.FP4}
#: Family names whose default option is not the one to compare: eight planes of activations at once.
CHOSEN = {"bit_plane": "bit_plane:pairs=8"}

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
    """A unit. `macs` are products of a weight and an activation per cycle."""

    family: str
    weights: str
    weight_bits: float
    acts: str
    macs: float
    parts: tuple[Part, ...]
    unit: str

    @property
    def name(self) -> str:
        return f"{self.family} {self.weights} x {self.acts}, {self.unit}"


class TermEncoder(wiring.Component):
    """The encoder of `bit_serial` for one lane, which all rows share."""

    def __init__(self, *kinds: WeightKind):
        self.kinds = frozenset(kinds)
        super().__init__({"code": In(8), "kind": In(WeightKind), "select": In(2), "index": In(2), "term": Out(Term)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.term.eq(encode_term(m, self.code, self.kind, self.select, self.index, self.kinds, "encoded"))
        return m


class WeightDecoder(wiring.Component):
    """The decoder of `mac` for one lane, which all rows share."""

    def __init__(self, *kinds: WeightKind):
        self.kinds = frozenset(kinds)
        super().__init__({"code": In(8), "kind": In(WeightKind), "select": In(2), "value": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.value.eq(decode_weight(m, self.code, self.kind, self.select, self.kinds, "decoded"))
        return m


class Register(wiring.Component):
    """A flip-flop, without reset."""

    def __init__(self):
        super().__init__({"i": In(1), "o": Out(1)})

    def elaborate(self, platform):
        m = Module()
        held = Signal(reset_less=True)
        m.d.sync += held.eq(self.i)
        m.d.comb += self.o.eq(held)
        return m


def all_points() -> list[Point]:
    return [*fp16_points(), *ladder_points(), *k_points(), *wide_points(), *column_points()]


def operands(bits: float) -> Part:
    """Registers of operands: `bits` is a PE's share of those that it reads together with its neighbours."""
    return Part("operand registers", bits, Register, "outside")


def _scale(macs: float) -> Part:
    """BitMoD's dequantiser: one serves as many PEs as it has time for while they compute a group."""
    return Part("dequantiser", SerialScale.latency / (GROUP / macs), lambda: SerialScale(bits=25), "outside")


def fp16_points() -> list[Point]:
    """The units with FP16 activations; operands come from registers at the edge of a tile."""
    per_act, per_weight = 16 / TILE_COLUMNS, 16 / FP16_TILE_ROWS
    points = [
        Point("fp16_mac", "fp16", 16, "fp16", 1, (Part("PE", 1, Fp16Mac), operands(per_act + per_weight)), "1 lane"),
        Point("fp16_mac", "fp16", 16, "fp16", 1, (
            Part("PE", 1, lambda: Fp16Mac(subnormals=True)), operands(per_act + per_weight)), "1 lane, subnormals"),
        Point("fp16_dot", "fp16", 16, "fp16", fp16_dot.LANES, (
            Part("PE", 1, fp16_dot.Fp16Dot), operands(fp16_dot.LANES * (per_act + per_weight))), "4 lanes"),
    ]
    terms = Part("operand registers", FP16_LANES * 16 / TILE_COLUMNS + (FP16_LANES * 4 + 3) / BITMOD_TILE_ROWS,
                 Register, "outside")
    encoders = Part("encoders", FP16_LANES / BITMOD_TILE_ROWS, lambda: TermEncoder(*BITMOD_KINDS), "outside")
    for bits in (24, 16):
        for kind in BITMOD_KINDS:
            def bitmod(bits: int = bits) -> BitSerialFp16:
                return BitSerialFp16(bits=bits)
            points.append(Point("bit_serial_fp16", kind.name.lower(), KIND_BITS[kind], "fp16", FP16_LANES / TERMS[kind],
                                (Part("PE", 1, bitmod), encoders, terms), f"4 lanes, {bits}-bit sum"))
    int4 = operands(FP16_LANES * (16 / TILE_COLUMNS + 4 / BITMOD_TILE_ROWS))
    points.append(Point("shift_add_fp16", "int4", 4, "fp16", FP16_LANES, (
        Part("PE", 1, ShiftAddFp16), _scale(FP16_LANES), int4), "4 lanes"))
    for bits in range(1, 9):
        points.append(Point("lut_fp16", f"int{bits}", bits, "fp16", lut_fp16.K / bits, (
            Part("column", 1, lut_fp16.LutFp16Column), Part("table", 1 / LUT_COLUMNS, lut_fp16.TableFp16, "outside"),
            _scale(lut_fp16.K / bits), operands(lut_fp16.K + 3)), f"K=4, table shared by {LUT_COLUMNS} columns"))
    return points


def column_points() -> list[Point]:
    """Every family of the array, integer activations: `mac` and `lut` with every width, the others with `COMPARED`."""
    return [column_point(name, kind, COLUMNS) for name in FAMILIES
            for kind in sorted(family(name).KINDS, key=lambda kind: (kind in FLOATS, KIND_BITS[kind], kind))
            if kind in COMPARED or (name in ("mac", "lut") and kind not in FLOATS)]


def column_point(name: str, kind: WeightKind, columns: int, *, rows: int = ROWS, lanes: int = LANES,
                 label: str = "") -> Point:
    """A column of a family, such as "mac" or "lut:k=5", in an array of some columns."""
    cls = family(CHOSEN.get(name, name))
    kinds = frozenset({kind})
    interval = cls.timing(kind, lanes, ACT_BITS).interval
    rate = bits_per_cycle(GROUP // lanes * interval)
    group = GROUP // lanes * lanes

    def column() -> wiring.Component:
        return cls(rows=rows, lanes=lanes, act_bits=ACT_BITS, kinds=kinds, group_max=group)

    def dequant() -> GroupDequant:
        return GroupDequant(rows=rows, dot_bits=dot_bits(ACT_BITS, kinds, group),
                            sum_bits=signed_bits(group << (ACT_BITS - 1)), rate=rate, asymmetric=False)

    parts = [Part("column", 1, column), Part("dequantiser", 1, dequant, "outside")]
    front = cls.FRONT
    if front:
        parts.append(Part("front", 1 / columns, lambda: front(cls, rows=rows, lanes=lanes, act_bits=ACT_BITS),
                          "outside"))
    if name in ("bit_serial", "shift_add"):
        parts.append(Part("encoders", (1 + (name == "shift_add")) * lanes, lambda: TermEncoder(kind), "inside"))
    if name in ("mac", "mac_packed") and kind in FLOATS:
        parts.append(Part("decoders", lanes, lambda: WeightDecoder(kind), "inside"))
    return Point(label or name, kind.name.lower(), KIND_BITS[kind], f"int{ACT_BITS}", rows * lanes / interval,
                 tuple(parts), f"{rows} rows of {lanes} lanes, {columns} columns" + f", {name}" * bool(label))


def k_points() -> list[Point]:
    """Tables of 2 to 6 activations, two-bit weights, as many columns as in LUT Tensor Core.

    60 lanes are whole tables of every size, so that all have the same accumulator and dequantiser behind them.
    """
    return [column_point(f"lut:k={k}", WeightKind.INT2, LUT_COLUMNS, rows=1, lanes=60, label="lut_k")
            for k in range(2, 7)]


def wide_points() -> list[Point]:
    """`mac` and `lut` with 16 lanes a row: four tables before one accumulator."""
    widths = (WeightKind.INT1, WeightKind.INT2, WeightKind.INT3, WeightKind.INT4, WeightKind.INT5, WeightKind.INT6,
              WeightKind.INT8)
    return [column_point(name, kind, COLUMNS, rows=1, lanes=16, label=f"{name}_wide")
            for name in ("lut", "mac") for kind in widths]


def ladder_points() -> list[Point]:
    """LUT Tensor Core's tile, W2A8, M2N64K4, in the four steps of its Table 2."""
    rows, k, weight_bits = 2, 4, 2
    acc_bits = signed_bits(GROUP * 3 << (ACT_BITS - 1))  # 2q - 3 of a two-bit q

    def point(step: Step) -> Point:
        def column() -> TileColumn:
            return TileColumn(step, rows=rows, k=k, act_bits=ACT_BITS, weight_bits=weight_bits, acc_bits=acc_bits)

        parts = [Part("column", LUT_COLUMNS, column), Part("table", rows, lambda: Table(step, k=k, act_bits=ACT_BITS))]
        if step is Step.SHARED:
            # Made once for all tiles that read the same activations: charged in full, once for this one.
            parts.append(Part("table precompute", rows, lambda: Table(Step.FOLDED, k=k, act_bits=ACT_BITS), "outside"))
        return Point("lut_ladder", "int2", weight_bits, f"int{ACT_BITS}", rows * LUT_COLUMNS * k / weight_bits,
                     tuple(parts), f"step {step.value}: {step.name.lower()}")

    return [point(step) for step in Step]
