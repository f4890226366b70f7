"""`shift_add`: products of narrow weights by shifts and additions, a step a cycle (MixPE).

A 4-bit weight is two signed powers of two: two radix-4 Booth digits, or the two set bits of a BitMoD float. So a
product is two shifted activations and one addition, without a multiplier (MixPE, arXiv 2411.16158, multiplies 4-bit
weights by shifts and additions and dequantises after the group, as the array does). Zero points cost one sum of
activations a group for all outputs: `act_sum`. The terms are `bit_serial`'s, two at a time; wider integers take two
cycles. Of planes with power-of-two coefficients (ShiftAddLLM, arXiv 2406.05981) two are added in a cycle, the second
shifted by the group's gap.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data

from wordline.pe.bit_serial import FLOATS, TERMS, encode_term, is_planes, significance
from wordline.pe.datatypes import PLANES, WeightKind
from wordline.pe.family import adder_tree, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, register


class Addend(data.Struct):
    """A signed power of two, up to ``2**4``; `ZERO` as its place stands for nothing."""

    negative: unsigned(1)
    place: unsigned(3)


ZERO = 7


class ShiftAddColumn(PipelinedColumn):
    """Two shifters and an adder per row and lane; the terms are encoded once for all rows.

    Interval: half the terms of a datatype, 1 up to 4 bits. Latency ``interval + 4 + ceil(log4(lanes))``: operands,
    one pair of terms after the other, terms, product, adder tree, significance, accumulator.
    """

    KINDS = frozenset(TERMS)
    SHIFTS = 6

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return -(-TERMS[kind] // 2)

    @classmethod
    def depth(cls, lanes: int) -> int:
        return 2 + tree_levels(lanes)

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        # Of planes, that of the pair's lower one.
        shift = significance(step.kind, step.select, step.index << 1, self.kinds)
        return Mux(is_planes(step.kind), shift, step.index << 2), Const(0)

    def sums(self, m: Module, step: Step) -> list[Value]:
        pairs = [[self._addend(m, step, i, which) for which in range(2)] for i in range(self.lanes)]
        sums = []
        for r in range(self.rows):
            products = []
            for i, pair in enumerate(pairs):
                act = register(m, step.acts[r][i], f"act_{r}_{i}")
                low, high = (self._shifted(m, act, addend, which, f"part_{r}_{i}_{which}")
                             for which, addend in enumerate(pair))
                product = (low + high)[: self.act_bits + 5].as_signed()
                products.append(register(m, product, f"product_{r}_{i}"))
            sums.append(adder_tree(m, products, f"tree_{r}"))
        return sums

    def _addend(self, m: Module, step: Step, i: int, which: int) -> Any:
        """The lower (`which` = 0) or the higher of the two terms of this cycle."""
        term = encode_term(m, step.codes[i], step.kind, step.select, Cat(Const(which, 1), step.index), self.kinds,
                           f"term_{i}_{which}")
        result = Signal(Addend, name=f"addend_{i}_{which}")
        is_float = Cat(step.kind == kind for kind in FLOATS).any()
        place = Mux(is_float, 1 - which, 2 * which)
        if self.kinds & set(PLANES):
            place = Mux(is_planes(step.kind), step.select[:2] if which else 0, place)
        m.d.comb += [result.negative.eq(term.sign), result.place.eq(Mux(term.man, term.exp + place, ZERO))]
        return register(m, result, f"addend_{i}_{which}_register")

    def _shifted(self, m: Module, act: Value, addend: Any, which: int, name: str) -> Value:
        places = {2 * which, 2 * which + 1} if self.kinds - set(FLOATS) - set(PLANES) else set()
        if self.kinds & set(PLANES):
            places |= set(range(4)) if which else {0}
        if self.kinds & set(FLOATS):
            places |= set(range(1 - which, 5 - which))
        value = Signal(signed(self.act_bits + 4), name=name)
        with m.Switch(addend.place):
            for place in sorted(places):
                with m.Case(place):
                    m.d.comb += value.eq(act << place)
        return Mux(addend.negative, -value, value)
