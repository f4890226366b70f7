"""`mac_packed`: two products of narrow weights per multiplier.

One multiplication of ``x0 + x1 * 2**s`` by ``d1 + d0 * 2**s`` has ``x0*d0 + x1*d1`` in its middle s bits: two
lanes' share of the dot product. Below it is ``x0*d1``; where that is negative it has borrowed one from the middle,
which is given back. With 8-bit activations the operands have 22 and 18 bits: the 27 x 18 multiplier of a Xilinx
DSP48E2 does it at once, the 18 x 18 ones of an ECP5 do not. Weights of magnitude up to 15 take one cycle; others go
as two digits of four bits. The activations are packed once for all columns, by `PackFront`, and the weights once
for all rows.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from wordline.pe.datatypes import WeightKind, max_value
from wordline.pe.family import Front, adder_tree, tree_levels
from wordline.pe.mac import decode_weight
from wordline.pe.pipeline import PipelinedColumn, Step, register

DIGIT_BITS = 5  # -15 to 15


def field(act_bits: int) -> int:
    """The s above: bits that hold two products, of digits up to 15."""
    return act_bits + DIGIT_BITS


class PackFront(Front):
    """``x0 + x1 * 2**s`` for every two lanes."""

    def elaborate(self, platform):
        m = Module()
        with m.If(self.taken):
            for r in range(self.rows):
                for i in range(0, self.lanes, 2):
                    upper = self.acts[r][i + 1] << field(self.act_bits) if i + 1 < self.lanes else 0
                    m.d.sync += self.operand[r][i // 2].eq(self.acts[r][i] + upper)
        return m


class PackedMacColumn(PipelinedColumn):
    """A multiplier per row and two lanes.

    Interval 1 for weights of magnitude up to 15, else 2. Latency ``interval + 4 + ceil(log4(lanes / 2))``: step, one
    digit after the other, operands, products, adder tree, place value, accumulator.
    """

    KINDS = frozenset(WeightKind)
    SHIFTS = 4
    FRONT = PackFront

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return 1 if max_value(kind) <= 15 else 2

    @classmethod
    def coupled(cls) -> int:
        return 2

    @classmethod
    def depth(cls, lanes: int) -> int:
        return 2 + tree_levels(-(-lanes // 2))

    @classmethod
    def operand(cls, rows: int, lanes: int, act_bits: int) -> data.ArrayLayout:
        pair = signed(field(act_bits) + act_bits + 1)
        return data.ArrayLayout(data.ArrayLayout(pair, -(-lanes // 2)), rows)

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        return step.index << 2, Const(0)

    def sums(self, m: Module, step: Step) -> list[Value]:
        s = field(self.act_bits)
        digits = [self._digit(m, step, i) for i in range(self.lanes)] + [Const(0, 1)] * (self.lanes % 2)
        weights = [register(m, (digits[i + 1] + (digits[i] << s))[: s + DIGIT_BITS].as_signed(), f"weights_{i}")
                   for i in range(0, self.lanes, 2)]
        sums = []
        for r in range(self.rows):
            terms = []
            for i, weight in enumerate(weights):
                act = register(m, step.acts[r][i], f"acts_{r}_{i}")
                product = register(m, (act * weight)[: 2 * s], f"product_{r}_{i}")
                terms.append((product[s:] + product[s - 1])[:s].as_signed())
            sums.append(adder_tree(m, terms, f"tree_{r}"))
        return sums

    def _digit(self, m: Module, step: Step, i: int) -> Value:
        """A narrow weight, or the low four bits of a wide one, then the others."""
        value = decode_weight(m, step.codes[i], step.kind, step.select, self.kinds, f"decoded_{i}")
        digit = Signal(signed(DIGIT_BITS), name=f"digit_{i}")
        m.d.comb += digit.eq(value)
        with m.Switch(step.kind):
            for kind in sorted(self.kinds):
                if self.cycles(kind, self.act_bits) == 2:
                    with m.Case(kind):
                        m.d.comb += digit.eq(Mux(step.index == 0, value[:4], value[4:].as_signed()))
        return digit
