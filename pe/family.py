"""What every family of processing elements offers, and the registry of families.

A family builds a *column*: one output channel for `rows` tokens. The weight operand of a step (`lanes`
codes along K) is decoded once and shared by the rows; each row forms an exact integer dot product over
a group. What depends on the activations alone, and is the same for all columns, is the family's `Front`, of which
an array has one. A new family is one file with a subclass of `PeColumn` (or of `PipelinedColumn`, which has the
plumbing), and one line in `FAMILIES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import EnableInserter, Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from wordline.pe.datatypes import WEIGHT_TYPES, WeightKind, decode_table, max_value


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


def act_layout(rows: int, lanes: int, act_bits: int) -> data.ArrayLayout:
    """``[rows][lanes]`` activations of a step."""
    return data.ArrayLayout(data.ArrayLayout(signed(act_bits), lanes), rows)


class Front(wiring.Component):
    """What a family makes of a step's activations once for all columns.

    It stands where each column would otherwise have a register for the activations: a step is accepted in one cycle,
    and from the next on, until that after the next acceptance, the front presents its operand. The operand may
    change from cycle to cycle.

    Parameters
    ----------
    family : type[PeColumn]
        Whose `operand` it makes; has the options.
    rows, lanes, act_bits : int
        As of the columns.

    Members
    -------
    taken : In, the columns accept a step in this cycle
    acts : In ``[rows][lanes]``, its activations
    operand : Out, of the step accepted last
    """

    def __init__(self, family: Any, *, rows: int, lanes: int, act_bits: int):
        self.family, self.rows, self.lanes, self.act_bits = family, rows, lanes, act_bits
        super().__init__({"taken": In(1), "acts": In(act_layout(rows, lanes, act_bits)),
                          "operand": Out(family.operand(rows, lanes, act_bits))})


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
    acts : ``In(stream)`` of ``[rows][lanes]`` activations. In a family with a `Front` the payload is the
        front's operand instead, which comes a cycle after the transfer.
    weights : ``In(stream)`` of one step's codes (low bits of 8), their kind, the group's special-value
        select or gaps, and whether this step ends the group. A step is taken from both streams at once.
    dots : ``Out(stream)`` of ``[rows]`` exact group dot products, one transfer a group. While one is not
        taken, the column stands still.

    Attributes of a family
    ----------------------
    KINDS : what it can decode.
    OPTIONS : parameters of the family itself and their values; a class attribute of that name has the default.
    FRONT : its `Front`, if it has one.

    Raises
    ------
    ValueError
        A parameter is out of its domain, or the family does not decode a kind.
    """

    KINDS: ClassVar[frozenset[WeightKind]]
    OPTIONS: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    FRONT: ClassVar[type[Front] | None] = None

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
        if not kinds <= self.KINDS:
            raise ValueError(f"{type(self).__name__} does not decode "
                             f"{', '.join(k.name for k in sorted(kinds - self.KINDS))}")
        if group_max < lanes:
            raise ValueError(f"group_max must be at least one step of {lanes} lanes, not {group_max}")
        self.rows, self.lanes, self.act_bits, self.kinds = rows, lanes, act_bits, kinds
        self.group_max, self.dot_bits = group_max, dot_bits(act_bits, kinds, group_max)
        step = data.StructLayout({
            "codes": data.ArrayLayout(unsigned(8), lanes),
            "kind": WeightKind,
            "select": unsigned(4),
            "last": unsigned(1),
        })
        super().__init__({
            "acts": In(stream.Signature(self.operand(rows, lanes, act_bits))),
            "weights": In(stream.Signature(step)),
            "dots": Out(stream.Signature(data.ArrayLayout(signed(self.dot_bits), rows))),
        })

    @classmethod
    def operand(cls, rows: int, lanes: int, act_bits: int) -> data.Layout:
        """What `acts` carries."""
        return act_layout(rows, lanes, act_bits)

    @classmethod
    def front(cls, rows: int, lanes: int, act_bits: int) -> Front | None:
        """The family's front for all columns of an array, if it has one."""
        return cls.FRONT(cls, rows=rows, lanes=lanes, act_bits=act_bits) if cls.FRONT else None

    @classmethod
    def coupled(cls) -> int:
        """Neighbouring lanes whose operands meet before their products are added; 1 if every lane has a product."""
        return 1

    @classmethod
    def timing(cls, kind: WeightKind, lanes: int, act_bits: int) -> Timing:
        """Declared timing; the bench measures that it is true."""
        raise NotImplementedError

    @staticmethod
    def reference(acts: np.ndarray, codes: np.ndarray, kind: WeightKind, select: int) -> np.ndarray:
        """int64[rows]: the dot product of int[rows, K] with uint8 codes [K]."""
        return acts.astype(np.int64) @ decode_table(kind, select)[codes].astype(np.int64)


class CompleteColumn(wiring.Component):
    """A column with the front of its family: for whoever wants one column, and raw activations whatever the family.

    Members are those of `PeColumn`; `acts` has activations in every family.
    """

    acts: stream.Interface
    weights: stream.Interface
    dots: stream.Interface

    def __init__(self, column: PeColumn):
        self.column = column
        members = dict(column.signature.members)
        members["acts"] = In(stream.Signature(act_layout(column.rows, column.lanes, column.act_bits)))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.column = column = self.column
        connect(m, flipped(self.weights), column.weights)
        connect(m, column.dots, flipped(self.dots))
        m.d.comb += [column.acts.valid.eq(self.acts.valid), self.acts.ready.eq(column.acts.ready),
                     column.acts.payload.eq(self.acts.payload)]
        front = column.front(column.rows, column.lanes, column.act_bits)
        if front:
            moves = Signal()
            m.submodules.front = EnableInserter(moves)(front)
            m.d.comb += [
                moves.eq(~self.dots.valid | self.dots.ready), front.acts.eq(self.acts.payload),
                front.taken.eq(self.acts.valid & self.acts.ready), column.acts.payload.eq(front.operand),
            ]
        return m


def adder_tree(m: Module, terms: list, name: str):
    """The sum of `terms`, four at a time with a register behind each level."""
    level = 0
    while len(terms) > 1:
        sums = []
        for i in range(0, len(terms), 4):
            total = sum(terms[i + 1 : i + 4], terms[i])
            register = Signal(total.shape(), name=f"{name}_{level}_{i // 4}")
            m.d.sync += register.eq(total)
            sums.append(register)
        terms, level = sums, level + 1
    return terms[0]


def tree_levels(terms: int) -> int:
    """Registers from the terms of an `adder_tree` to their sum."""
    levels = 0
    while terms > 1:
        terms = -(-terms // 4)
        levels += 1
    return levels


#: Family name -> "module:class". A family is imported when it is asked for.
FAMILIES: dict[str, str] = {
    "mac": "wordline.pe.mac:MacColumn",
    "mac_packed": "wordline.pe.mac_packed:PackedMacColumn",
    "bit_serial": "wordline.pe.bit_serial:BitSerialColumn",
    "shift_add": "wordline.pe.shift_add:ShiftAddColumn",
    "lut": "wordline.pe.lut:LutColumn",
    "ternary": "wordline.pe.ternary:TernaryColumn",
    "bit_plane": "wordline.pe.bit_plane:BitPlaneColumn",
}


@cache
def family(name: str) -> type[PeColumn]:
    """The column class of a family, such as ``lut``, or with options of its own: ``lut:group=5``.

    Raises
    ------
    ValueError
        No family has this name, or it has no such option or value.
    """
    base, _, options = name.partition(":")
    if base not in FAMILIES:
        raise ValueError(f"no PE family {base!r}: one of {', '.join(sorted(FAMILIES))}")
    module, _, class_name = FAMILIES[base].partition(":")
    cls = getattr(import_module(module), class_name)
    chosen = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in cls.OPTIONS:
            raise ValueError(f"{base} has no option {key!r}: {', '.join(cls.OPTIONS) or 'it has none'}")
        if value not in map(str, cls.OPTIONS[key]):
            raise ValueError(f"{base}: {key} = {value!r} is not one of {', '.join(map(str, cls.OPTIONS[key]))}")
        chosen[key] = int(value)
    return type(cls.__name__, (cls,), chosen) if chosen else cls


def served(cls: type[PeColumn]) -> list[str]:
    """Names of the weight datatypes that a family decodes."""
    return [name for name, t in WEIGHT_TYPES.items() if t.kind in cls.KINDS]
