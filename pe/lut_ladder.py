"""The steps from a conventional look-up PE to LUT Tensor Core's (ISCA 2025, arXiv 2408.06003, Table 2), as circuits.

A tile multiplies M rows of K activations with N columns of K weights, a bit plane of the weights a cycle. Every
column and row reads a table that the columns share. The steps, each on top of the one before:

1. `CONVENTIONAL`: planes of 0 and 1 (two's complement, the top plane counts negative): all 2^K sums. The paper takes
   UNPU for this step, whose inside is not in our sources.
2. `REINTERPRETED`: planes of -1 and +1: half the table, the rest by negation. The index is folded in the column.
3. `FOLDED`: the index is folded off line.
4. `SHARED`: the table is made elsewhere, once for everybody; the tile only holds it.

Steps 2 to 4 compute ``sum((2q - (2^W - 1)) * x)``, which the zero point corrects, step 1 ``sum(q * x)``.
"""

from enum import IntEnum

from amaranth.hdl import Array, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.family import signed_bits
from wordline.pe.lut import fold, half_table


class Step(IntEnum):
    CONVENTIONAL = 1
    REINTERPRETED = 2
    FOLDED = 3
    SHARED = 4


def table_layout(step: Step, k: int, act_bits: int) -> data.ArrayLayout:
    """The sums that a table holds: all of them, or half."""
    largest = k << (act_bits - 1)
    if step is Step.CONVENTIONAL:
        return data.ArrayLayout(signed(signed_bits(largest - 1)), 1 << k)
    # A negative activation of the largest magnitude is negated.
    return data.ArrayLayout(signed(signed_bits(largest)), 1 << (k - 1))


def full_table(acts: list[Value]) -> list[Value]:
    """Entry i: the sum of the activations whose bit of i is set. Each is one addition to an earlier one."""
    entries: list[Value] = [acts[0] - acts[0], acts[0]]
    for act in acts[1:]:
        entries += [act, *(act + entry for entry in entries[1:])]
    return entries


class Table(wiring.Component):
    """The table of one row of a tile, in registers: made here from activations, or in step 4 loaded as it is.

    Members
    -------
    load : In, take what stands at `acts`, or at `entries` in step 4
    table : Out, from the next cycle on
    """

    def __init__(self, step: Step, *, k: int, act_bits: int):
        self.step, self.k = step, k
        layout = table_layout(step, k, act_bits)
        operand = {"acts": In(data.ArrayLayout(signed(act_bits), k))}
        if step is Step.SHARED:
            operand = {"entries": In(layout)}
        super().__init__({"load": In(1), "table": Out(layout)} | operand)

    def elaborate(self, platform):
        m = Module()
        if self.step is Step.SHARED:
            entries = list(self.entries)
        else:
            make = full_table if self.step is Step.CONVENTIONAL else half_table
            entries = make(list(self.acts))
        with m.If(self.load):
            m.d.sync += [place.eq(entry) for place, entry in zip(self.table, entries, strict=True)]
        return m


class TileColumn(wiring.Component):
    """One column of a tile: for each row a look-up, a negation, and the shifted sum in an accumulator.

    Members
    -------
    tables : In ``[rows]``
    valid, bits, plane, top, first : In, a plane of K weight bits; which one, whether it is the top one, whether a sum
        starts. From step 3 on the lower bits are the index (`folded`) and the highest bit says whether to negate.
    acc : Out ``[rows]``, a cycle later
    """

    def __init__(self, step: Step, *, rows: int, k: int, act_bits: int, weight_bits: int, acc_bits: int):
        self.step, self.rows, self.weight_bits = step, rows, weight_bits
        super().__init__({
            "tables": In(data.ArrayLayout(table_layout(step, k, act_bits), rows)), "valid": In(1), "bits": In(k),
            "plane": In(range(max(2, weight_bits))), "top": In(1), "first": In(1),
            "acc": Out(data.ArrayLayout(signed(acc_bits), rows)),
        })

    def elaborate(self, platform):
        m = Module()
        if self.step is Step.CONVENTIONAL:
            index, negative = self.bits, self.top
        elif self.step is Step.REINTERPRETED:
            index, negative = fold(self.bits)
        else:
            index, negative = self.bits[:-1], self.bits[-1]
        for table, acc in zip(self.tables, self.acc, strict=True):
            entry = Array(table)[index]
            value = Mux(negative, -entry, entry)
            shifted = Signal(signed(len(entry) + self.weight_bits))
            m.d.comb += shifted.eq(value << self.plane)
            with m.If(self.valid):
                m.d.sync += acc.eq(Mux(self.first, 0, acc) + shifted)
        return m
