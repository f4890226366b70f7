"""The plumbing that families share: handshakes, a step held while its cycles pass, shift, accumulator."""

from dataclasses import dataclass
from typing import Any, ClassVar

from amaranth.hdl import Const, EnableInserter, Module, Mux, Signal, Value, signed

from wordline.pe.datatypes import WeightKind
from wordline.pe.family import PeColumn, Timing


@dataclass(frozen=True)
class Step:
    """What a column works on in a cycle: a step, and which of its cycles (`index`, from 0) this is."""

    codes: Any
    kind: Value
    select: Value
    acts: Any
    index: Value


class PipelinedColumn(PeColumn):
    """A column that forms a sum for each row and cycle, shifts it, and adds it to the group's accumulator.

    A family says how many `cycles` a step of a kind takes, what the rows' `sums` are in each, and where they go
    (`place`). Everything freezes while a finished dot product is not taken, so nobody else sees a stall.

    Attributes of a family
    ----------------------
    HOLDS : bool
        Steps are kept in registers here. A family whose steps all take one cycle may do without.
    SHIFTS : int
        The most by which a sum is shifted; 0 for a family that never shifts or negates one, and saves the register.
    HALVES : bool
        The accumulator holds twice the dot product.
    """

    HOLDS: ClassVar[bool] = True
    SHIFTS: ClassVar[int] = 0
    HALVES: ClassVar[bool] = False

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        """Cycles that a step takes."""
        raise NotImplementedError

    @classmethod
    def depth(cls, lanes: int) -> int:
        """Registers from a `Step` to its sums."""
        raise NotImplementedError

    def sums(self, m: Module, step: Step) -> list[Value]:
        """Per row the sum of this cycle, `depth` cycles later."""
        raise NotImplementedError

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        """By how much the sums of this cycle are to be shifted to the left, and whether they count negative
        (``Const(0)`` if they never do)."""
        raise NotImplementedError

    @classmethod
    def timing(cls, kind: WeightKind, lanes: int, act_bits: int) -> Timing:
        cycles = cls.cycles(kind, act_bits)
        return Timing(interval=cycles, latency=cls.HOLDS + cycles - 1 + cls.depth(lanes) + bool(cls.SHIFTS) + 1)

    def elaborate(self, platform):
        m, path = Module(), Module()  # handshakes; what freezes
        moves, taken, more, busy = Signal(), Signal(), Signal(), Signal()
        m.submodules.path = EnableInserter(moves)(path)
        m.d.comb += [
            moves.eq(~self.dots.valid | self.dots.ready),
            self.acts.ready.eq(moves & ~more & self.weights.valid),
            self.weights.ready.eq(moves & ~more & self.acts.valid),
            taken.eq(self.acts.valid & self.weights.valid),
        ]
        offered, last = self.weights.payload, Signal()
        if self.HOLDS:
            step = self._hold(path, offered, taken, more, busy, last)
        else:
            step = Step(offered.codes, offered.kind, offered.select, self.acts.payload, Const(0, 1))
            path.d.comb += [busy.eq(taken), last.eq(offered.last)]
        sums = self.sums(path, step)
        depth = self.depth(self.lanes)
        if self.SHIFTS:
            shift, negative = self.place(path, step)
            sums = self._shift(path, sums, delayed(path, shift, depth, "shift"),
                               delayed(path, negative, depth, "negative"))
            depth += 1
        ends = delayed(path, last & busy, depth, "ends")
        self._accumulate(path, sums, delayed(path, busy, depth, "valid"), ends)
        path.d.sync += self.dots.valid.eq(ends)
        return m

    def _hold(self, m: Module, offered: Any, taken: Value, more: Value, busy: Value, last: Value) -> Step:
        """The accepted step, in a register, with its cycles counted."""
        held = Signal.like(offered)
        most = max(self.cycles(kind, self.act_bits) for kind in self.kinds)
        index, left = Signal(range(most)), Signal(range(most))  # this cycle; how many are to come
        m.d.comb += [more.eq(left != 0), last.eq(held.last & ~more)]
        acts = self.acts.payload
        with m.If(more):
            m.d.sync += [index.eq(index + 1), left.eq(left - 1)]
        with m.Else():
            m.d.sync += busy.eq(taken)
            with m.If(taken):
                m.d.sync += [held.eq(offered), index.eq(0)]
                with m.Switch(offered.kind):
                    for kind in sorted(self.kinds):
                        with m.Case(kind):
                            m.d.sync += left.eq(self.cycles(kind, self.act_bits) - 1)
        if self.FRONT is None:
            acts = Signal.like(self.acts.payload)
            with m.If(~more & taken):
                m.d.sync += acts.eq(self.acts.payload)
        return Step(held.codes, held.kind, held.select, acts, index)

    def _shift(self, m: Module, sums: list[Value], shift: Value, negative: Value) -> list[Value]:
        shifted: list[Value] = []
        for r, total in enumerate(sums):
            if not isinstance(negative, Const):
                total = Mux(negative, -total, total)
            # Bits above the accumulator's cancel out in the end.
            place = Signal(signed(min(len(total) + self.SHIFTS, self.dot_bits + self.HALVES)), name=f"shifted_{r}")
            m.d.sync += place.eq(total << shift)
            shifted.append(place)
        return shifted

    def _accumulate(self, m: Module, sums: list[Value], valid: Value, ends: Value) -> None:
        first = Signal(init=1)
        with m.If(valid):
            m.d.sync += first.eq(ends)
        for r, total in enumerate(sums):
            acc = Signal(signed(self.dot_bits + self.HALVES), name=f"acc_{r}")
            with m.If(valid):
                m.d.sync += acc.eq(Mux(first, 0, acc) + total)
            m.d.comb += self.dots.payload[r].eq(acc >> self.HALVES)


def register(m: Module, value: Any, name: str) -> Any:
    """`value` a cycle later."""
    result = Signal.like(value, name=name)
    m.d.sync += result.eq(value)
    return result


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value` so many cycles later. A constant stays one."""
    if isinstance(value, Const):
        return value
    for i in range(cycles):
        value = register(m, value, f"{name}_{i}")
    return value
