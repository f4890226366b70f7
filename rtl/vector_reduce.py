"""Reductions of the vector unit: sum in the canonical order, maxima, argmax."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.float_add import FloatAdd
from wordline.rtl.float_parts import delay
from wordline.rtl.float_ref import SUM_WIDTH
from wordline.rtl.isa import Reduction
from wordline.rtl.vector_lane import flushed, is_nan, order_key

MINUS_ZERO = 0x80000000


class VectorReduce(wiring.Component):
    """Takes a word of elements a cycle, then on `finish` folds them into `value` (and `index`).

    SUM: `SUM_WIDTH` partial sums lie in a memory of ``SUM_WIDTH / lanes`` words that is added to in turn;
    the fold in halves reads two words a cycle. An element that is masked out counts as -0, the number that
    changes no partial sum. Halves that nothing was added to are skipped: they hold +0, and the other half has
    seen one addition to +0 at most, so it is not -0, and adding +0 to it changes nothing.
    MAX, ABSMAX, ARGMAX: a running best per lane, then lane after lane.

    `finish` comes when no word is under way in front of this unit; `finished` follows after
    `reduce_cycles` cycles.

    Members
    -------
    start : In, with the instruction's `kind`, and where to start from (`init_value`, `init_index`)
    valid, mask, word, base : In, a word, its valid elements, index of its first element
    finish, finished, value, index : as above
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.words = SUM_WIDTH // lanes
        if self.words < FloatAdd.latency + 1:
            raise ValueError(f"{lanes} lanes are too many for {SUM_WIDTH} partial sums")
        word = data.ArrayLayout(32, lanes)
        super().__init__({
            "start": In(1), "kind": In(Reduction), "init_value": In(32), "init_index": In(32),
            "valid": In(1), "mask": In(lanes), "word": In(word), "base": In(32),
            "finish": In(1), "finished": Out(1), "value": Out(32), "index": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, words = self.lanes, self.words
        adders = [FloatAdd() for _ in range(lanes)]
        for i, adder in enumerate(adders):
            m.submodules[f"adder_{i}"] = adder

        # Two copies of the partial sums, so that a fold reads two words at once.
        m.submodules.low = low = Memory(shape=32 * lanes, depth=words, init=[])
        m.submodules.high = high = Memory(shape=32 * lanes, depth=words, init=[])
        read_low, read_high = low.read_port(domain="comb"), high.read_port(domain="comb")
        writes = [low.write_port(), high.write_port()]
        filled = Signal(words)
        slot = Signal(range(words))

        folding, issue = Signal(), Signal()
        half, step = Signal(range(words + 1)), Signal(range(words))
        partner = Signal(range(words))
        lane_level = Signal(range(exact_log2(lanes) + 1))
        across = Signal()  # folding across the lanes of word 0
        final = Signal(32 * lanes)
        m.d.comb += [
            partner.eq(step + half),
            read_low.addr.eq(Mux(folding, step, slot)),
            read_high.addr.eq(partner),
        ]
        first = Mux(filled.bit_select(read_low.addr, 1), read_low.data, 0)
        second = Mux(filled.bit_select(read_high.addr, 1), read_high.data, 0)
        for i, adder in enumerate(adders):
            lane_first, lane_second = first.word_select(i, 32), second.word_select(i, 32)
            with m.If(across):
                m.d.comb += adder.a.eq(final.word_select(i, 32))
                for level in range(exact_log2(lanes)):
                    gap = lanes >> (level + 1)
                    with m.If(lane_level == level):
                        m.d.comb += adder.b.eq(final.word_select((i + gap) % lanes, 32))
            with m.Elif(folding):
                m.d.comb += [adder.a.eq(lane_first), adder.b.eq(lane_second)]
            with m.Else():
                m.d.comb += [adder.a.eq(lane_first), adder.b.eq(Mux(self.mask[i], self.word[i], MINUS_ZERO))]
        accept = self.valid & (self.kind == Reduction.SUM)
        m.d.comb += issue.eq(Mux(folding, ~across, accept))
        wait = FloatAdd.latency
        for port in writes:
            m.d.comb += [
                port.addr.eq(delay(m, read_low.addr, wait, "to")),
                port.en.eq(delay(m, issue, wait, "write")),
                port.data.eq(Cat(adder.o for adder in adders)),
            ]
        with m.If(accept):
            m.d.sync += [slot.eq(slot + 1), filled.eq(filled | (1 << slot))]

        # Running best of each lane.
        best = [Signal(32, name=f"best_{i}") for i in range(lanes)]
        place = [Signal(32, name=f"place_{i}") for i in range(lanes)]
        for i in range(lanes):
            element = flushed(self.word[i])
            element = Mux(self.kind == Reduction.ABSMAX, Cat(element[:31], Const(0, 1)), element)
            better = order_key(element) > order_key(best[i])
            with m.If(self.valid & self.mask[i] & better & ~is_nan(self.word[i])):
                m.d.sync += [best[i].eq(element), place[i].eq(self.base + i)]

        with m.If(self.start):
            m.d.sync += [slot.eq(0), filled.eq(0)]
            m.d.sync += [b.eq(self.init_value) for b in best] + [p.eq(self.init_index) for p in place]

        countdown = Signal(range(wait + 2))
        lane = Signal(range(lanes))
        with m.FSM():
            with m.State("TAKE"):
                with m.If(self.finish):
                    m.d.sync += [countdown.eq(wait), lane.eq(0), lane_level.eq(0), step.eq(0)]
                    m.d.sync += half.eq(0)
                    for level in range(exact_log2(words)):  # the highest filled word decides
                        with m.If(filled[1 << level :].any()):
                            m.d.sync += half.eq(1 << level)
                    m.next = "COMPARE"
                    with m.If(self.kind == Reduction.SUM):
                        m.next = "SETTLE"
                    with m.If(self.kind == Reduction.NONE):
                        m.next = "DONE"
            with m.State("SETTLE"):  # until the last sum is in the memory
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.next = "FOLD"
                    with m.If(half == 0):
                        m.next = "TOP"
            with m.State("FOLD"):
                m.d.comb += folding.eq(1)
                m.d.sync += step.eq(step + 1)
                with m.If(step == half - 1):
                    m.d.sync += [step.eq(0), half.eq(half >> 1), countdown.eq(wait)]
                    m.next = "SETTLE"
            with m.State("TOP"):
                m.d.comb += [folding.eq(1), across.eq(1)]
                m.d.sync += [final.eq(first), countdown.eq(wait)]
                m.next = "ACROSS"
            with m.State("ACROSS"):
                m.d.comb += [folding.eq(1), across.eq(1)]
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.d.sync += [final.eq(Cat(adder.o for adder in adders)), countdown.eq(wait),
                                 lane_level.eq(lane_level + 1)]
                    with m.If(lane_level == exact_log2(lanes) - 1):
                        m.d.sync += self.value.eq(adders[0].o)
                        m.next = "DONE"
            with m.State("COMPARE"):
                # Lane 0 against the next lane; the lower index wins a tie.
                other, other_place = data.View(data.ArrayLayout(32, lanes), Cat(best)), data.View(
                    data.ArrayLayout(32, lanes), Cat(place))
                key, other_key = order_key(best[0]), order_key(other[lane])
                with m.If((other_key > key) | ((other_key == key) & (other_place[lane] < place[0]))):
                    m.d.sync += [best[0].eq(other[lane]), place[0].eq(other_place[lane])]
                m.d.sync += lane.eq(lane + 1)
                with m.If(lane == lanes - 1):
                    m.next = "BEST"
            with m.State("BEST"):
                m.d.sync += [self.value.eq(best[0]), self.index.eq(place[0])]
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.finished.eq(1)
                m.next = "TAKE"
        return m


def reduce_cycles(lanes: int, kind: Reduction, words: int) -> int:
    """Cycles from `finish` to `finished`, for an instruction of `words` words."""
    if kind == Reduction.NONE:
        return 1
    if kind != Reduction.SUM:
        return lanes + 2
    settle = FloatAdd.latency + 1
    used = min(words, SUM_WIDTH // lanes)
    levels = max(used - 1, 0).bit_length()
    fold = sum((1 << level) + settle for level in range(levels))
    return 1 + settle + fold + 1 + exact_log2(lanes) * settle
