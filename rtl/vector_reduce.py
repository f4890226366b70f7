"""Reductions of the vector unit: sum in the canonical order, maxima, argmax."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.pe.float_parts import delay
from wordline.rtl.float_add import FloatAdd
from wordline.rtl.float_ref import SUM_WIDTH
from wordline.rtl.isa import Reduction
from wordline.rtl.vector_lane import flushed, from_order_key, is_nan, order_key

MINUS_ZERO = 0x80000000
#: Cycles from the read of two operands to their sum: a register, the adder.
ADD = 1 + FloatAdd.latency


class VectorReduce(wiring.Component):
    """Takes a word of elements a cycle, then on `finish` folds them into `value` (and `index`).

    SUM: `SUM_WIDTH` partial sums lie in a memory of ``SUM_WIDTH / lanes`` words that is added to in turn;
    the fold in halves reads two words a cycle. An element that is masked out counts as -0, the number that
    changes no partial sum. Halves that nothing was added to are skipped: they hold +0, and the other half has
    seen one addition to +0 at most, so it is not -0, and adding +0 to it changes nothing.

    MAX, ABSMAX, ARGMAX: a running best per lane, as its `order_key`; at the end neighbours are compared, so that half
    as many are left a cycle later.

    A word is registered first; words of a SUM come `sum_interval` cycles apart. `finish` comes at least a cycle after
    the last one; `finished` follows after `reduce_cycles` cycles.

    Members
    -------
    start : In, with the instruction's `kind`, and where to start from (`init_value`, `init_index`)
    valid, mask, word, base : In, a word, its valid elements, index of its first element
    finish, finished, value, index : as above
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
        self.words = SUM_WIDTH // lanes
        word = data.ArrayLayout(32, lanes)
        super().__init__({
            "start": In(1), "kind": In(Reduction), "init_value": In(32), "init_index": In(32),
            "valid": In(1), "mask": In(lanes), "word": In(word), "base": In(32),
            "finish": In(1), "finished": Out(1), "value": Out(32), "index": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, words = self.lanes, self.words
        levels = exact_log2(lanes)
        valid, mask, base = delay(m, self.valid, 1, "valid"), delay(m, self.mask, 1, "mask"), Signal(32)
        word = [delay(m, self.word[i], 1, f"word_{i}") for i in range(lanes)]
        m.d.sync += base.eq(self.base)

        # Two copies of the partial sums, so that a fold reads two words at once.
        m.submodules.low = low = Memory(shape=32 * lanes, depth=words, init=[])
        m.submodules.high = high = Memory(shape=32 * lanes, depth=words, init=[])
        read_low, read_high = low.read_port(domain="comb"), high.read_port(domain="comb")
        # Words from `slot` on hold nothing yet, unless `full`.
        slot, full = Signal(range(words)), Signal()

        folding, across = Signal(), Signal()  # of words; then of the lanes of word 0
        half, step = Signal(range(words)), Signal(range(words))
        upper = Signal(range(words))  # step + half
        m.d.sync += upper.eq(step + half)
        level = Signal(range(levels + 1))
        final = Signal(32 * lanes)
        accept, issue = Signal(), Signal()
        first, second = Signal(32 * lanes), Signal(32 * lanes)
        m.d.comb += [
            read_low.addr.eq(Mux(folding, step, slot)),
            read_high.addr.eq(upper),
            accept.eq(valid & (self.kind == Reduction.SUM)),
            issue.eq(Mux(folding, ~across, accept)),
        ]
        with m.If(full | (folding & (slot != 0))):
            m.d.comb += first.eq(read_low.data)
        with m.If(full | (read_high.addr < slot)):
            m.d.comb += second.eq(read_high.data)
        sums = []
        for i in range(lanes):
            m.submodules[f"adder_{i}"] = adder = FloatAdd()
            # Registers, since an adder begins with a comparison.
            a, b = Signal(32, name=f"a_{i}"), Signal(32, name=f"b_{i}")
            m.d.sync += [
                a.eq(first.word_select(i, 32)), b.eq(Mux(mask[i], word[i], MINUS_ZERO))]
            with m.If(folding):
                m.d.sync += b.eq(second.word_select(i, 32))
            with m.If(across):
                m.d.sync += a.eq(final.word_select(i, 32))
                with m.Switch(level):
                    for k in range(levels):
                        with m.Case(k):
                            partner = (i + (lanes >> (k + 1))) % lanes
                            m.d.sync += b.eq(final.word_select(partner, 32))
            m.d.comb += [adder.a.eq(a), adder.b.eq(b)]
            sums.append(adder.o)
        for port in (low.write_port(), high.write_port()):
            m.d.comb += [
                port.addr.eq(delay(m, read_low.addr, ADD, "to")),
                port.en.eq(delay(m, issue, ADD, "write")),
                port.data.eq(Cat(sums)),
            ]
        with m.If(accept):
            m.d.sync += [slot.eq(slot + 1), full.eq(full | (slot == words - 1))]

        best = [Signal(32, name=f"best_{i}") for i in range(lanes)]
        place = [Signal(32, name=f"place_{i}") for i in range(lanes)]
        for i in range(lanes):
            element = flushed(self.word[i])
            element = Mux(self.kind == Reduction.ABSMAX, Cat(element[:31], Const(0, 1)), element)
            key, counts = Signal(32, name=f"key_{i}"), Signal(name=f"counts_{i}")
            m.d.sync += [key.eq(order_key(element)),
                         counts.eq(self.valid & self.mask[i] & ~is_nan(self.word[i]))]
            with m.If(counts & (key > best[i])):
                m.d.sync += [best[i].eq(key), place[i].eq(base + i)]

        with m.If(self.start):
            m.d.sync += [slot.eq(0), full.eq(0)]
            m.d.sync += [b.eq(order_key(self.init_value)) for b in best] + [p.eq(self.init_index) for p in place]

        countdown, lane = Signal(range(ADD + 1)), Signal(range(levels + 1))
        with m.FSM():
            with m.State("TAKE"):
                m.d.sync += [countdown.eq(ADD), lane.eq(0), level.eq(0), step.eq(0), half.eq(0)]
                for k in range(exact_log2(words)):  # the last word that holds something decides
                    with m.If(full if words == 2 else full | (slot > 1 << k)):  # of two words slot is at most 1
                        m.d.sync += half.eq(1 << k)
                with m.If(self.finish):
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
                m.d.sync += [step.eq(step + 1), upper.eq(upper + 1)]
                with m.If(step == half - 1):
                    m.d.sync += [step.eq(0), half.eq(half >> 1), countdown.eq(ADD)]
                    m.next = "SETTLE"
            with m.State("TOP"):
                m.d.comb += [folding.eq(1), across.eq(1)]
                m.d.sync += [final.eq(first), countdown.eq(ADD)]
                m.next = "ACROSS"
            with m.State("ACROSS"):
                m.d.comb += [folding.eq(1), across.eq(1)]
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.d.sync += [final.eq(Cat(sums)), countdown.eq(ADD), level.eq(level + 1)]
                    with m.If(level == levels - 1):
                        m.d.sync += self.value.eq(sums[0])
                        m.next = "DONE"
            with m.State("COMPARE"):
                # The lower index wins a tie. What lies above the half that counts is of no matter.
                for i, (a, b) in enumerate(zip(range(0, lanes, 2), range(1, lanes, 2), strict=True)):
                    second_wins = (best[b] > best[a]) | ((best[b] == best[a]) & (place[b] < place[a]))
                    m.d.sync += [best[i].eq(Mux(second_wins, best[b], best[a])),
                                 place[i].eq(Mux(second_wins, place[b], place[a]))]
                m.d.sync += lane.eq(lane + 1)
                with m.If(lane == levels - 1):
                    m.next = "BEST"
            with m.State("BEST"):
                m.d.sync += [self.value.eq(from_order_key(best[0])), self.index.eq(place[0])]
                m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.finished.eq(1)
                m.next = "TAKE"
        return m


def sum_interval(lanes: int) -> int:
    """Cycles between two words of a SUM: a partial sum's turn comes again when its last sum is there."""
    return -(-(ADD + 1) // (SUM_WIDTH // lanes))


def reduce_cycles(lanes: int, kind: Reduction, words: int) -> int:
    """Cycles from `finish` to `finished`, for an instruction of `words` words."""
    if kind == Reduction.NONE:
        return 1
    if kind != Reduction.SUM:
        return exact_log2(lanes) + 2
    settle = ADD + 1
    used = min(words, SUM_WIDTH // lanes)
    levels = max(used - 1, 0).bit_length()
    fold = sum((1 << level) + settle for level in range(levels))
    return 1 + settle + fold + 1 + exact_log2(lanes) * settle
