"""`bit_plane`: both operands as bit planes, AND and popcount (ABQ-LLM, bipolar-INT).

``sum(x * w)`` is the sum over pairs of planes of ``+-2**(i+j) * popcount(x_i & w_j)``, negative where one of the
planes is the top one of a two's complement number. So any widths multiply on the same hardware, a pair of planes a
cycle, or `pairs` of them: as many activation planes at once (ABQ-LLM, arXiv 2408.08554, has unsigned planes and
zero points; two's complement needs no corrections).

A plane of +-1 (bipolar-INT, arXiv 2409.17870) against a plane of bits counts the agreements minus the others:
``2 * popcount(x_i & w) - popcount(x_i)``. The second count is the same for all columns.

So are the planes of the activations: `PlaneFront` lets the activations rotate and counts their bits, and what goes to
the columns is `pairs` bits a lane and a count a pair.
"""

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data

from wordline.pe.datatypes import INT_BITS, KIND_BITS, WeightKind
from wordline.pe.family import Front, adder_tree, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, delayed


class PlaneFront(Front):
    """`pairs` planes of every activation in each cycle, the lowest first, over and over; and how many bits are set in
    each plane of a row, as many cycles later as a column counts."""

    def elaborate(self, platform):
        m = Module()
        pairs = len(self.operand.planes[0][0])
        for r in range(self.rows):
            planes = self.operand.planes[r]
            for i in range(self.lanes):
                turning = Signal(self.act_bits, name=f"turning_{r}_{i}")
                m.d.sync += turning.eq(Mux(self.taken, self.acts[r][i], turning.rotate_right(pairs)))
                m.d.comb += planes[i].eq(turning[:pairs])
            for p in range(pairs):
                count = adder_tree(m, [planes[i][p] for i in range(self.lanes)], f"count_{r}_{p}")
                m.d.comb += self.operand.counts[r][p].eq(count)
        return m


class BitPlaneColumn(PipelinedColumn):
    """Per row, lane and pair an AND; per row and pair a popcount.

    Interval: planes of the weight times planes of the activation, divided by `pairs`. Latency
    ``interval + 2 + ceil(log4(lanes))``: step, one pair after the other, popcount, place value, accumulator.
    """

    KINDS = frozenset(INT_BITS) | {WeightKind.INT1, WeightKind.TERNARY}
    OPTIONS = {"pairs": (1, 2, 4, 8, 16)}
    SHIFTS = 22
    FRONT = PlaneFront
    pairs = 1

    @classmethod
    def turns(cls, act_bits: int) -> int:
        """Cycles in which a weight plane meets all planes of the activations."""
        return max(1, act_bits // cls.pairs)

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return KIND_BITS[kind] * cls.turns(act_bits)  # of a ternary weight: what is added, what is subtracted

    @classmethod
    def depth(cls, lanes: int) -> int:
        return tree_levels(lanes)

    @classmethod
    def operand(cls, rows: int, lanes: int, act_bits: int) -> data.StructLayout:
        pairs = min(cls.pairs, act_bits)
        counts = data.ArrayLayout(unsigned(lanes.bit_length()), pairs)
        return data.StructLayout({
            "planes": data.ArrayLayout(data.ArrayLayout(unsigned(pairs), lanes), rows),
            "counts": data.ArrayLayout(counts, rows)})

    def _split(self, step: Step) -> tuple[Value, Value, Value]:
        """Plane of the weights, turn of the activations, and whether it has their top plane."""
        turns = self.turns(self.act_bits)
        bits = (turns - 1).bit_length()
        return step.index[bits:], step.index[:bits], step.index[:bits] == turns - 1

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        plane, turn, top = self._split(step)
        shift, negative = Signal(range(self.SHIFTS + 1)), Signal()
        with m.Switch(step.kind):
            for kind in sorted(self.kinds):
                with m.Case(kind):
                    of_weight = plane if kind in INT_BITS else 0
                    last = (plane == KIND_BITS[kind] - 1) if kind is not WeightKind.INT1 else 0
                    m.d.comb += [shift.eq(turn * min(self.pairs, self.act_bits) + of_weight),
                                 negative.eq(last ^ (top if self.pairs == 1 else 0))]
        return shift, negative

    def sums(self, m: Module, step: Step) -> list[Value]:
        plane, _, top = self._split(step)
        most = max(KIND_BITS[kind] for kind in self.kinds)
        bits = []
        for i, code in enumerate(step.codes):
            bit = Signal(name=f"bit_{i}")
            m.d.comb += bit.eq(code[:most].bit_select(plane, 1))
            if WeightKind.TERNARY in self.kinds:
                with m.If(step.kind == WeightKind.TERNARY):
                    m.d.comb += bit.eq(code[0] & (code[1] == plane))
            bits.append(bit)
        depth = self.depth(self.lanes)
        top = delayed(m, top, depth, "top")
        bipolar = delayed(m, step.kind == WeightKind.INT1, depth, "bipolar")
        sums = []
        for r in range(self.rows):
            planes = step.acts.planes[r]
            counts = [adder_tree(m, [bit & planes[i][p] for i, bit in enumerate(bits)], f"count_{r}_{p}")
                      for p in range(len(planes[0]))]
            if WeightKind.INT1 in self.kinds:
                counts = [Mux(bipolar, (count << 1) - step.acts.counts[r][p], count) for p, count in enumerate(counts)]
            total = counts[0]
            if len(counts) > 1:
                # The last plane is the top one in the last turn.
                total = sum((count << p for p, count in enumerate(counts[1:-1], 1)), total)
                total += Mux(top, -counts[-1], counts[-1]) << len(counts) - 1
            sums.append(total)
        return sums
