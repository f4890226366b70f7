"""One PE array that tests itself, for devices too small for the accelerator: a key pressed, a line printed.

Operands and expected sums lie in block RAM, made by the family's numpy reference. The circuit feeds the array as fast
as it takes steps, compares every dot product, and prints how many came, how many were wrong, a checksum of all of them
and the cycles from the first step to the last sum: what `expected_line` says in advance.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from wordline.fpga.uart import UartReceiver, UartTransmitter
from wordline.pe.datatypes import KIND_BITS, PLANES, WeightKind
from wordline.pe.family import CompleteColumn, PeColumn, family

SEED = 21


@dataclass(frozen=True)
class Group:
    """Operands of a group: acts int64[rows, K], codes uint8[cols, K]."""

    acts: np.ndarray
    codes: np.ndarray
    kind: WeightKind


@dataclass(frozen=True)
class ArrayTest:
    """An array of `cols` columns of a family, and the groups that it is tried on.

    Raises
    ------
    ValueError
        As `PeColumn` does.
    """

    family: str
    rows: int
    cols: int
    lanes: int
    act_bits: int
    kinds: tuple[str, ...]
    group_max: int = 32
    groups: int = 48

    def column(self) -> PeColumn:
        return family(self.family)(rows=self.rows, lanes=self.lanes, act_bits=self.act_bits,
                                   kinds=frozenset(WeightKind[k] for k in self.kinds), group_max=self.group_max)

    @cached_property
    def operands(self) -> list[Group]:
        """Kinds in turn, random lengths; the first of each kind are of the ends of every range."""
        rng = np.random.default_rng(SEED)
        top, longest, made = 1 << self.act_bits - 1, self.group_max // self.lanes, []
        for i in range(self.groups):
            kind, ends = WeightKind[self.kinds[i % len(self.kinds)]], i // len(self.kinds) < 2
            k = self.lanes * (longest if ends else int(rng.integers(1, longest + 1)))
            acts = rng.integers(-top, top, (self.rows, k))
            codes = rng.integers(0, 1 << KIND_BITS[kind], (self.cols, k)).astype(np.uint8)
            if ends:
                acts[:] = -top
                codes[:] = 0 if kind in PLANES else 1 << KIND_BITS[kind] - 1
            made.append(Group(acts, codes, kind))
        return made

    @cached_property
    def sums(self) -> np.ndarray:
        """int64[groups, cols, rows] of the reference."""
        reference = family(self.family).reference
        return np.stack([np.stack([reference(g.acts, codes, g.kind, 0) for codes in g.codes])
                         for g in self.operands])

    @property
    def title(self) -> str:
        return f"{self.family} {self.rows}x{self.cols}x{self.lanes}"

    def cycles(self) -> int:
        """From the first step taken to the last sum, by the family's declared timing."""
        timing = family(self.family).timing
        times = [(timing(g.kind, self.lanes, self.act_bits), g.acts.shape[1] // self.lanes)
                 for g in self.operands]
        last, _ = times[-1]
        return sum(t.interval * steps for t, steps in times) - last.interval + last.latency

    def line(self, *, sums: int, wrong: int, check: int, cycles: int) -> str:
        """What is printed; the numbers are hexadecimal."""
        return f"{self.title}: {sums:04X} sums, {wrong:04X} wrong, check {check:08X}, {cycles:04X} cycles\r\n"

    def expected_line(self) -> str:
        check = 0
        for sums in self.sums:
            check = ((check << 1 | check >> 31) + int(sums.sum())) & 0xFFFFFFFF
        return self.line(sums=self.groups, wrong=0, check=check, cycles=self.cycles())


class PeSelfTest(wiring.Component):
    """The array, its operands, and a serial port that starts the test with any byte and prints its line.

    Parameters
    ----------
    test : ArrayTest
    divisor : int, clock cycles per bit of the serial port
    sums : int64[groups, cols, rows], what is expected; that of the test by default

    Members
    -------
    rx, tx : In/Out, the serial port
    running : Out, the test is under way
    """

    def __init__(self, test: ArrayTest, *, divisor: int, sums: np.ndarray | None = None):
        self.test, self.divisor = test, divisor
        self.sums = test.sums if sums is None else sums
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "running": Out(1)})  # type: ignore[call-arg]

    def elaborate(self, platform):
        m = Module()
        test = self.test
        columns = [CompleteColumn(test.column()) for _ in range(test.cols)]
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]

        steps = self._steps()
        step = data.StructLayout({"acts": columns[0].acts.payload.shape(),
                                  "codes": data.ArrayLayout(data.ArrayLayout(8, test.lanes), test.cols),
                                  "kind": WeightKind, "last": 1})
        m.submodules.steps = operands = Memory(shape=step, depth=len(steps), init=steps)
        dots = data.ArrayLayout(columns[0].dots.payload.shape(), test.cols)
        m.submodules.sums = expected = Memory(shape=dots, depth=test.groups, init=self.sums.tolist())
        feed, compare = operands.read_port(), expected.read_port()

        # Both tables are read a cycle ahead.
        at, offered = Signal(range(len(steps) + 1)), Signal()
        group, wrong = Signal(16), Signal(16)
        check, cycles = Signal(32), Signal(16)
        taken, came = Signal(), columns[0].dots.valid
        m.d.comb += [feed.addr.eq(at + taken), compare.addr.eq(group + came),
                     taken.eq(offered & columns[0].acts.ready)]
        right, total = Signal(), Signal(32)
        matches, sums = Const(1, 1), 0
        for i, column in enumerate(columns):
            m.submodules[f"column_{i}"] = column
            m.d.comb += [
                column.acts.valid.eq(offered), column.acts.payload.eq(feed.data.acts),
                column.weights.valid.eq(offered), column.weights.payload.codes.eq(feed.data.codes[i]),
                column.weights.payload.kind.eq(feed.data.kind), column.weights.payload.last.eq(feed.data.last),
                column.dots.ready.eq(1),
            ]
            matches = matches & column.dots.valid & (
                column.dots.payload.as_value() == compare.data[i].as_value())
            sums = sum((column.dots.payload[r] for r in range(test.rows)), sums)
        m.d.comb += [right.eq(matches), total.eq(sums)]

        blank = test.line(sums=0, wrong=0, check=0, cycles=0).encode()
        digits = Cat(*(value.word_select(i, 4) for value, width in ((group, 4), (wrong, 4), (check, 8), (cycles, 4))
                       for i in reversed(range(width))))
        m.submodules.text = text = Memory(shape=_CHARACTER, depth=len(blank), init=_template(blank, test.title))
        letter, position = text.read_port(domain="comb"), Signal(range(len(blank) + 1))
        shown = letter.data
        digit = digits.word_select(shown.value[:5], 4)
        m.d.comb += [letter.addr.eq(position), transmitter.bytes.payload.eq(
            Mux(shown.digit, Mux(digit > 9, digit + (ord("A") - 10), digit + ord("0")), shown.value))]

        with m.FSM():
            with m.State("WAIT"):
                m.d.sync += [at.eq(0), offered.eq(0), position.eq(0)]
                with m.If(receiver.valid):
                    m.d.sync += [group.eq(0), wrong.eq(0), check.eq(0), cycles.eq(0), offered.eq(1)]
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.running.eq(1)
                with m.If(taken):
                    m.d.sync += at.eq(at + 1)
                    with m.If(at == len(steps) - 1):
                        m.d.sync += offered.eq(0)
                m.d.sync += cycles.eq(cycles + ((at != 0) | taken))
                with m.If(came):
                    m.d.sync += [group.eq(group + 1), wrong.eq(wrong + ~right),
                                 check.eq(Cat(check[31], check[:31]) + total)]
                # An array from which nothing comes ends its test too.
                with m.If((came & (group == test.groups - 1)) | cycles.all()):
                    m.d.sync += cycles.eq(cycles)
                    m.next = "PRINT"
            with m.State("PRINT"):
                m.d.comb += transmitter.bytes.valid.eq(1)
                with m.If(transmitter.bytes.ready):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == len(blank) - 1):
                        m.next = "WAIT"
        return m

    def _steps(self) -> list[dict]:
        lanes, made = self.test.lanes, []
        for g in self.test.operands:
            length = g.acts.shape[1]
            made += [{"acts": g.acts[:, s : s + lanes].tolist(), "codes": g.codes[:, s : s + lanes].tolist(),
                      "kind": g.kind, "last": s + lanes == length} for s in range(0, length, lanes)]
        return made


_CHARACTER = data.StructLayout({"value": 7, "digit": 1})


def _template(blank: bytes, title: str) -> list[dict]:
    """The line's characters; where a digit of a number goes, which one."""
    made, digit = [], 0
    for i, byte in enumerate(blank):
        number = byte == ord("0") and i > len(title)
        made.append({"value": digit if number else byte, "digit": number})
        digit += number
    return made
