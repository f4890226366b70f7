"""`mac`: the bit-parallel baseline, one integer multiplier per lane."""

from amaranth.hdl import Array, Const, Module, Mux, Signal, Value, signed

from wordline.pe.datatypes import INT_BITS, KIND_BITS, PLANES, WeightKind, decode_table
from wordline.pe.family import adder_tree, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, register


def decode_weight(m: Module, code, kind, select, kinds: frozenset[WeightKind], name: str) -> Signal:
    """The signed 8-bit value of a code, combinational. Only the given kinds get hardware."""
    value = Signal(signed(8), name=name)
    with m.Switch(kind):
        for k in sorted(kinds):
            with m.Case(k):
                bits = KIND_BITS[k]
                if k is WeightKind.INT1:
                    m.d.comb += value.eq(Mux(code[0], 1, -1))
                    continue
                if k in PLANES:
                    shifts = [Const(0, 1), select[:2], select[:2] + select[2:4]][: PLANES[k]]
                    m.d.comb += value.eq(sum(Mux(code[i], Const(1) << s, -(Const(1) << s))
                                             for i, s in enumerate(shifts)))
                    continue
                if k in INT_BITS:
                    m.d.comb += value.eq(code[:bits].as_signed())
                    continue
                table = Array([int(v) for v in decode_table(k)])
                special = Array([int(decode_table(k, s)[1 << (bits - 1)]) for s in range(4)])
                is_special = code[:bits] == 1 << (bits - 1)
                m.d.comb += value.eq(Mux(is_special, special[select[:2]], table[code[:bits]]))
    return value


class MacColumn(PipelinedColumn):
    """``dot[r] = sum(act[r][k] * value(code[k]) for k in the group)`` with a multiplier per row and lane.

    Codes are decoded to signed 8-bit integers once for all rows. A product of 16 by 8 bits fits one DSP block
    of an FPGA; its operands and the product sit in registers of their own.
    Interval 1 for every kind; latency ``3 + ceil(log4(lanes))``: operands, products, adder tree, accumulator.
    """

    KINDS = frozenset(WeightKind)
    HOLDS = False

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return 1

    @classmethod
    def depth(cls, lanes: int) -> int:
        return 2 + tree_levels(lanes)

    def sums(self, m: Module, step: Step) -> list[Value]:
        decoded = [decode_weight(m, code, step.kind, step.select, self.kinds, f"decoded_{i}")
                   for i, code in enumerate(step.codes)]
        weights = [register(m, value, f"weight_{i}") for i, value in enumerate(decoded)]
        sums = []
        for r in range(self.rows):
            acts = [register(m, step.acts[r][i], f"act_{r}_{i}") for i in range(self.lanes)]
            products = [register(m, (a * w)[: self.act_bits + 8].as_signed(), f"product_{r}_{i}")
                        for i, (a, w) in enumerate(zip(acts, weights, strict=True))]
            sums.append(adder_tree(m, products, f"tree_{r}"))
        return sums
