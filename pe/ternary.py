"""`ternary`: add, subtract or skip (MatMul-free LM, arXiv 2406.02528; BitNet b1.58).

A weight of -1, 0 or 1 selects the activation, its negative, or nothing. In memory five of them take a byte
(`rtl.trits`). Attention needs wider operands, the cache's codes; the same lanes take them a bit plane a cycle: the
activation where the bit is set, negative in the top plane.
"""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data

from wordline.pe.datatypes import INT_BITS, KIND_BITS, WeightKind
from wordline.pe.family import adder_tree, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, register


class Choice(data.Struct):
    """What a lane adds: its activation, the negative of that, or nothing."""

    adds: unsigned(1)
    negative: unsigned(1)


class TernaryColumn(PipelinedColumn):
    """A conditional negation per row and lane.

    Interval 1 for ternary weights and bipolar bits, otherwise the bits of the datatype. Latency ``interval + 4 +
    ceil(log4(lanes))``: operands, one plane after the other, choice, addend, adder tree, place value, accumulator.
    """

    KINDS = frozenset(INT_BITS) | {WeightKind.INT1, WeightKind.TERNARY}
    SHIFTS = 7

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return INT_BITS.get(kind, 1)

    @classmethod
    def depth(cls, lanes: int) -> int:
        return 2 + tree_levels(lanes)

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        return step.index, Const(0)

    def sums(self, m: Module, step: Step) -> list[Value]:
        choices = [register(m, self._choice(m, step, i), f"choice_{i}_register") for i in range(self.lanes)]
        sums = []
        for r in range(self.rows):
            addends = []
            for i, choice in enumerate(choices):
                act = register(m, step.acts[r][i], f"act_{r}_{i}")
                addends.append(register(m, Mux(choice.adds, Mux(choice.negative, -act, act), 0), f"addend_{r}_{i}"))
            sums.append(adder_tree(m, addends, f"tree_{r}"))
        return sums

    def _choice(self, m: Module, step: Step, i: int) -> Any:
        code = step.codes[i]
        choice = Signal(Choice, name=f"choice_{i}")
        with m.Switch(step.kind):
            for kind in sorted(self.kinds):
                with m.Case(kind):
                    if kind is WeightKind.INT1:
                        m.d.comb += [choice.adds.eq(1), choice.negative.eq(~code[0])]
                    elif kind is WeightKind.TERNARY:
                        m.d.comb += [choice.adds.eq(code[0]), choice.negative.eq(code[1])]
                    else:
                        bits = KIND_BITS[kind]
                        m.d.comb += [choice.adds.eq(code[:bits].bit_select(step.index, 1)),
                                     choice.negative.eq(step.index == bits - 1)]
        return choice
