"""Sums of floating-point numbers for the PEs that take FP16 activations: operands, alignment, running sum.

Numbers travel as a two's complement significand and an exponent, so that signs cost nothing. Infinities and NaN
are not among them: exponent 31 of FP16 counts as one more binade. Subnormal operands count with their value.
The references are in Python's integers and mirror no bit of the circuits: a shift to the right is a floor whose last
bit is set when anything was lost, and rounding is to nearest, ties to even.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import leading_zeros, shift_right_sticky

#: An FP16 number is ``significand * 2**(exponent - FP16_BIAS)`` with 11 bits of significand.
FP16_BIAS = 25


@dataclass
class Half:
    """An FP16 number taken apart: `exponent` is at least 1, `significand` has the hidden bit of normal numbers."""

    sign: Value
    exponent: Value
    significand: Value


#: Width of the exponents below. Those of FP16 products span 60; a running sum goes ``bits`` below and grows above.
SUM_EXPONENT_BITS = 7


def sum_layout(bits: int) -> data.StructLayout:
    """A sum: two's complement significand of `bits` bits and sign, and an exponent, 0 for zero."""
    return data.StructLayout({"significand": signed(bits + 1), "exponent": unsigned(SUM_EXPONENT_BITS)})


def half(bits: Value) -> Half:
    normal = bits[10:15].any()
    return Half(bits[15], Cat(bits[10] | ~normal, bits[11:15]), Cat(bits[:10], normal))


def half_ints(bits: int) -> tuple[int, int]:
    """(signed significand, exponent) of an FP16 number, as `half` has them."""
    exponent, mantissa = bits >> 10 & 31, bits & 1023
    significand = mantissa | (1024 if exponent else 0)
    return -significand if bits >> 15 else significand, max(exponent, 1)


def shift_right_jam(value: int, amount: int) -> int:
    """floor(value / 2**amount), made odd if anything was lost."""
    return value >> amount | int(value & ((1 << amount) - 1) != 0)


def round_even(value: int, drop: int) -> int:
    """value / 2**drop to the nearest integer, ties to even."""
    if drop <= 0:
        return value << -drop
    floor, rest, middle = value >> drop, value & ((1 << drop) - 1), 1 << (drop - 1)
    return floor + int(rest > middle or (rest == middle and floor & 1))


Lanes = Sequence[tuple[Value, Value, Value]]


def align(m: Module, lanes: Lanes, guard: int, name: str) -> tuple[list[Value], Value]:
    """(sign, significand, exponent) of some lanes, shifted right to the largest exponent, combinational.

    Returns (signed significands, exponent): they have `guard` bits more at the low end, the last of which is
    sticky. A lane that shall not take part in the maximum has exponent 0 and significand 0.
    """
    level = [exponent for _, _, exponent in lanes]
    width = max(len(exponent) for exponent in level)
    while len(level) > 1:
        merged = []
        for i in range(0, len(level) - 1, 2):
            larger = Signal(width, name=f"{name}_max{len(level)}_{i}")
            m.d.comb += larger.eq(Mux(level[i] > level[i + 1], level[i], level[i + 1]))
            merged.append(larger)
        level = merged + level[len(merged) * 2 :]
    top = level[0]
    aligned = []
    for i, (sign, significand, exponent) in enumerate(lanes):
        distance = Signal(width, name=f"{name}_distance_{i}")
        m.d.comb += distance.eq(top - exponent)
        # What is shifted by more than its width has left only its sticky bit.
        bits = min((len(significand) + guard).bit_length(), width)
        amount = Signal(bits, name=f"{name}_amount_{i}")
        m.d.comb += amount.eq(distance[:bits] | distance[bits:].any().replicate(bits))
        size = shift_right_sticky(m, Cat(Const(0, guard), significand), amount, f"{name}_align_{i}")
        aligned.append(Mux(sign, -size, size))
    return aligned, top


def align_sum(m: Module, lanes: Lanes, guard: int, name: str) -> tuple[Value, Value]:
    """The sum of some lanes after `align`, and its exponent."""
    aligned, top = align(m, lanes, guard, name)
    return sum(aligned[1:], aligned[0]), top


def align_sum_reference(lanes: Sequence[tuple[int, int]], guard: int) -> tuple[int, int]:
    """`align_sum` of (signed significand, exponent), exponent 0 for a lane that takes no part."""
    top = max(exponent for _, exponent in lanes)
    total = 0
    for significand, exponent in lanes:
        aligned = shift_right_jam(abs(significand) << guard, top - exponent)
        total += -aligned if significand < 0 else aligned
    return total, top


class RunningSum(wiring.Component):
    """A floating-point sum in one register: align, add, normalise, round to nearest even, all in one cycle.

    ``value = significand * 2**exponent`` times a unit that whoever uses it knows. An addend's top is put at the sum's
    top, and `exponent` is that of its last bit there. With up to ``guard - 3`` leading zeros in the addend the sum is
    the exact one, rounded once. More of them may cost the sum bits that lie `bits` below the addend's top.

    Parameters
    ----------
    bits : int
        Precision: bits of the rounded significand besides its sign (24: as float32).
    addend_bits : int
        Width of an addend, at most ``bits + 1``.
    guard : int
        Bits kept below the significand while adding, the last of them sticky.

    Members
    -------
    valid, last, addend, exponent : In, an addend, and whether it ends the sum. Its exponent is 0 if it is zero, else at
        least `bias`, so that no cancellation leads below 1.
    done, sum : Out, a cycle after the last addend, for one cycle
    """

    def __init__(self, *, bits: int, addend_bits: int, guard: int = 3):
        if addend_bits > bits + 1:
            raise ValueError(f"addend_bits must be at most bits + 1 = {bits + 1}, not {addend_bits}")
        self.bits, self.addend_bits, self.guard = bits, addend_bits, guard
        super().__init__({
            "valid": In(1), "last": In(1), "addend": In(signed(addend_bits)), "exponent": In(SUM_EXPONENT_BITS),
            "done": Out(1), "sum": Out(sum_layout(bits)),
        })

    @staticmethod
    def bias(bits: int, guard: int = 3) -> int:
        """Smallest exponent of an addend that is not zero."""
        return bits + guard + 2

    @staticmethod
    def reference(addends: Iterable[tuple[int, int]], bits: int, addend_bits: int, guard: int = 3) -> tuple[int, int]:
        """(significand, exponent) of the sum of (addend, exponent) in order."""
        acc, exponent = 0, 0
        for addend, own in addends:
            if addend == 0:
                continue
            big = addend << (bits + 1 - addend_bits)
            small, top, low = acc, own, exponent
            if low > top:
                big, small, top, low = small, big, low, top
            total = (big << guard) + shift_right_jam(small << guard, top - low)
            if total == 0:
                acc, exponent = 0, 0
                continue
            # -2^n has as many bits as -2^n + 1, as in two's complement.
            width = (total if total > 0 else ~total).bit_length()
            acc = round_even(total, width - bits)
            exponent = top + width - bits - guard
            if acc == 1 << bits:
                acc, exponent = acc >> 1, exponent + 1
        return acc, exponent

    def elaborate(self, platform):
        m = Module()
        bits, guard = self.bits, self.guard
        acc, exponent = self.sum.significand, self.sum.exponent
        first = Signal(init=1)
        addend, running = Signal(signed(bits + 1)), Signal(signed(bits + 1))
        start = Signal(SUM_EXPONENT_BITS)
        m.d.comb += [
            addend.eq(self.addend << (bits + 1 - self.addend_bits)),
            running.eq(Mux(first, 0, acc)), start.eq(Mux(first, 0, exponent)),
        ]
        ahead, behind = Signal(signed(SUM_EXPONENT_BITS + 1)), Signal(SUM_EXPONENT_BITS)
        distance = Signal(SUM_EXPONENT_BITS)
        swap = Signal()
        big, small = Signal(signed(bits + 1)), Signal(signed(bits + 1))
        top = Signal(SUM_EXPONENT_BITS)
        m.d.comb += [
            ahead.eq(start - self.exponent), behind.eq(self.exponent - start), swap.eq(ahead < 0),
            distance.eq(Mux(swap, behind, ahead)),
            big.eq(Mux(swap, addend, running)), small.eq(Mux(swap, running, addend)),
            top.eq(Mux(swap, self.exponent, start)),
        ]
        places = (bits + guard + 1).bit_length()
        amount = Signal(places)
        m.d.comb += amount.eq(distance[:places] | distance[places:].any().replicate(places))
        aligned = shift_right_sticky(m, Cat(Const(0, guard), small).as_signed(), amount)
        total = Signal(signed(bits + guard + 2))
        m.d.comb += total.eq(Cat(Const(0, guard), big).as_signed() + aligned)

        # Bits that repeat the sign are shifted out; below the last bit stands a zero, so that -1 has one that does not.
        extended = Cat(Const(0, 1), total)
        redundant = leading_zeros(m, extended[1:] ^ extended[:-1], "redundant")
        value = extended
        for i in reversed(range(len(redundant))):
            shifted = Signal(len(extended), name=f"normal_after{1 << i}")
            m.d.comb += shifted.eq(Mux(redundant[i], value << (1 << i), value))
            value = shifted
        rest = guard + 2
        kept = value[rest:]
        up = value[rest - 1] & (value[: rest - 1].any() | value[rest])
        rounded = Signal(bits + 1)
        over, none = Signal(), Signal()
        m.d.comb += [
            rounded.eq(kept + up), none.eq(total == 0),
            # A positive significand that rounds up to the next power of two would read as negative.
            over.eq(rounded[-1] & ~kept[-1]),
        ]
        m.d.sync += self.done.eq(self.valid & self.last)
        with m.If(self.valid):
            m.d.sync += [
                first.eq(self.last),
                acc.eq(Cat(rounded[:-2], rounded[-2] | over, rounded[-1] & ~over)),
                exponent.eq(Mux(none, 0, top + 1 - redundant + over)),
            ]
        return m


class AlignedDot(wiring.Component):
    """Base of the PEs that add some lanes' products after aligning them, then add that to a running sum.

    A subclass says what a step holds and what a lane's product is. Stages: products, alignment and their sum; running
    sum. No PE of these stalls: whoever feeds it holds back instead.

    Parameters
    ----------
    step : dict
        Fields of a step; `last` is added.
    lanes, product_bits : int
        Products a step, and the width of their magnitudes.
    bits : int
        Precision of the running sum.
    unit : int
        Exponent of a product's last bit where a lane's exponent is 0.
    guard : int
        Bits that an aligned product keeps below its last, see `align_sum`.

    Members
    -------
    valid, step : In, a step, and whether it ends a sum
    done, sum : Out, for one cycle a sum, ``latency`` cycles after its last step
    """

    latency = 2

    def __init__(self, *, step: dict, lanes: int, product_bits: int, bits: int, unit: int, guard: int = 3):
        self.lanes, self.bits, self.guard = lanes, bits, guard
        self.addend_bits = product_bits + guard + 1 + (lanes - 1).bit_length()
        self.unit = unit - guard - (bits + 1 - self.addend_bits) - RunningSum.bias(bits)
        super().__init__({
            "valid": In(1), "step": In(data.StructLayout(step | {"last": 1})),
            "done": Out(1), "sum": Out(sum_layout(bits)),
        })

    def products(self, m: Module) -> list[tuple[Value, Value, Value]]:
        """(sign, magnitude, exponent) of each lane; a zero may have exponent 0, so that it aligns nothing."""
        raise NotImplementedError

    def raised(self) -> Value:
        """What is added to the exponent of the lanes' sum."""
        return Const(0, 1)

    def value(self, significand: int, exponent: int) -> Fraction:
        """The number that a sum is."""
        return exact(significand, exponent + self.unit)

    def reference(self, steps: Iterable[tuple[Sequence[tuple[int, int]], int]]) -> tuple[int, int]:
        """(significand, exponent) of the sum of steps: the lanes' (signed product, exponent), and what raises them."""
        addends = []
        for lanes, raised in steps:
            total, top = align_sum_reference(lanes, self.guard)
            addends.append((total, top + raised + RunningSum.bias(self.bits)))
        return RunningSum.reference(addends, self.bits, self.addend_bits)

    def elaborate(self, platform):
        m = Module()
        m.submodules.total = total = RunningSum(bits=self.bits, addend_bits=self.addend_bits)
        added, top = align_sum(m, self.products(m), self.guard, "lanes")
        addend = Signal(signed(self.addend_bits))
        m.d.comb += addend.eq(added)
        held, exponent = Signal.like(addend), Signal(SUM_EXPONENT_BITS)
        m.d.sync += [
            held.eq(addend), total.valid.eq(self.valid), total.last.eq(self.step.last),
            exponent.eq(Mux(addend == 0, 0, top + self.raised() + RunningSum.bias(self.bits))),
        ]
        m.d.comb += [total.addend.eq(held), total.exponent.eq(exponent), self.done.eq(total.done),
                     self.sum.eq(total.sum)]
        return m


def exact(significand: int, exponent: int) -> Fraction:
    """significand * 2**exponent."""
    return Fraction(significand) * (Fraction(2) ** exponent)


def ulps(result: Fraction, true: Fraction, bits: int) -> float:
    """|result - true| in units of the last place that `true` has with `bits` bits of significand."""
    if true == 0:
        raise ValueError("an error in units of the last place of zero is not defined")
    magnitude = abs(true)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    return float(abs(result - true) / Fraction(2) ** (exponent - bits + 1))
