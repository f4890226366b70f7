"""`mac`: the bit-parallel baseline, one integer multiplier per lane."""

from amaranth.hdl import Array, Module, Mux, Signal, signed

from wordline.pe.datatypes import KIND_BITS, WeightKind, decode_table
from wordline.pe.family import PeColumn, Timing, adder_tree, tree_levels


def decode_weight(m: Module, code, kind, select, kinds: frozenset[WeightKind], name: str) -> Signal:
    """The signed 8-bit value of a code, combinational. Only the given kinds get hardware."""
    value = Signal(signed(8), name=name)
    with m.Switch(kind):
        for k in sorted(kinds):
            with m.Case(k):
                bits = KIND_BITS[k]
                if k is WeightKind.INT1:
                    m.d.comb += value.eq(Mux(code[0], 1, -1))
                elif k in (WeightKind.FP4, WeightKind.FP3):
                    table = Array([int(v) for v in decode_table(k)])
                    special = Array([int(decode_table(k, s)[1 << (bits - 1)]) for s in range(4)])
                    is_special = code[:bits] == 1 << (bits - 1)
                    m.d.comb += value.eq(Mux(is_special, special[select], table[code[:bits]]))
                else:
                    m.d.comb += value.eq(code[:bits].as_signed())
    return value


class MacColumn(PeColumn):
    """``dot[r] = sum(act[r][k] * value(code[k]) for k in the group)`` with a multiplier per row and lane.

    Codes are decoded to signed 8-bit integers once for all rows. A product of 16 by 8 bits fits one DSP block
    of an FPGA; its operands and the product sit in registers of their own.
    Interval 1 for every kind; latency ``3 + ceil(log4(lanes))``: operands, products, adder tree, accumulator.
    """

    @classmethod
    def timing(cls, kind: WeightKind, lanes: int) -> Timing:
        return Timing(interval=1, latency=3 + tree_levels(lanes))

    def elaborate(self, platform):
        m = Module()
        step = self.weights.payload
        # Everything freezes while a finished dot product is not taken.
        enable = Signal()
        m.d.comb += [
            enable.eq(~self.dots.valid | self.dots.ready),
            self.acts.ready.eq(enable & self.weights.valid),
            self.weights.ready.eq(enable & self.acts.valid),
        ]
        taken = self.acts.valid & self.weights.valid

        weights = [Signal(signed(8), name=f"weight_{i}") for i in range(self.lanes)]
        for i, weight in enumerate(weights):
            decoded = decode_weight(m, step.codes[i], step.kind, step.select, self.kinds, f"decoded_{i}")
            with m.If(enable):
                m.d.sync += weight.eq(decoded)

        # valid and last travel with the data through operand, product and tree registers.
        depth = 2 + tree_levels(self.lanes)
        valid, last = Signal(depth), Signal(depth)
        with m.If(enable):
            m.d.sync += [valid.eq((valid << 1) | taken), last.eq((last << 1) | step.last)]
            m.d.sync += self.dots.valid.eq(valid[-1] & last[-1])

        first = Signal(init=1)
        with m.If(enable & valid[-1]):
            m.d.sync += first.eq(last[-1])
        for r in range(self.rows):
            products = []
            for i, weight in enumerate(weights):
                act = Signal(signed(self.act_bits), name=f"act_{r}_{i}")
                product = Signal(signed(self.act_bits + 8), name=f"product_{r}_{i}")
                with m.If(enable):
                    m.d.sync += [act.eq(self.acts.payload[r][i]), product.eq(act * weight)]
                products.append(product)
            total, _ = adder_tree(m, products, enable, f"tree_{r}")
            acc = self.dots.payload[r]
            with m.If(enable & valid[-1]):
                m.d.sync += acc.eq(Mux(first, 0, acc) + total)
        return m
