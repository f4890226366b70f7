"""`bit_serial` with FP16 activations, as in BitMoD (HPCA 2025, arXiv 2411.11745, Section IV and Fig. 5).

Four lanes; a cycle takes one term of each lane's weight, ``(-1)^sign * 2^exp * man * 2^significance``. Exponents
are aligned to the lanes' maximum, 11-bit mantissas keep three bits more, the last one sticky, and their sum goes
into an accumulator that is normalised and rounded to nearest even every cycle. Behind it the group's 8-bit scale is
multiplied bit by bit, exactly, while the next group runs. What the paper leaves open and is chosen here: the
accumulator has `bits` bits besides its sign (24 as in float32); lanes whose term is zero align nothing; the
significance is added to the exponent instead of shifting.
"""

from collections.abc import Sequence
from fractions import Fraction

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.bit_serial import TERMS, Term
from wordline.pe.datatypes import WeightKind, decode_table
from wordline.pe.float_sum import FP16_BIAS, SUM_EXPONENT_BITS, AlignedDot, half, half_ints

LANES = 4
SCALE_BITS = 8


def terms(code: int, kind: WeightKind, select: int = 0) -> list[tuple[int, int, int]]:
    """(sign, exp, significance) of a code's terms in the order in which they come; sign 0 is the term zero.

    Integers: digits of radix 4 out of -2 .. 2 (Booth). BitMoD's floats: the highest bit above the lowest, then of what
    is left the highest below the top.
    """
    value = int(decode_table(kind, select)[code])
    found = []
    if kind not in (WeightKind.FP4, WeightKind.FP3):
        for i in range(TERMS[kind]):
            digit = (value >> 2 * i & 1) + (value << 1 >> 2 * i & 1) - 2 * (value >> 2 * i + 1 & 1)
            found.append(((digit > 0) - (digit < 0), int(abs(digit) == 2), 2 * i))
        return found
    sign, rest = (value > 0) - (value < 0), abs(value)
    for significance in (1, 0):
        bit = (rest & (0b11110 if significance else 0b01111)).bit_length() - 1
        used = bit >= 0
        found.append((sign if used else 0, max(bit - significance, 0), significance))
        rest &= ~(used << max(bit, 0))
    return found


class BitSerialDot(AlignedDot):
    """The sum of terms: everything but the scale. A step is a term of each lane; `significance` is common to them."""

    def __init__(self, *, bits: int = 24):
        super().__init__(
            step={"acts": data.ArrayLayout(16, LANES), "terms": data.ArrayLayout(Term, LANES), "significance": 3},
            lanes=LANES, product_bits=11, bits=bits, unit=-FP16_BIAS)

    def products(self, m):
        lanes = []
        for i in range(LANES):
            act, term = half(self.step.acts[i]), self.step.terms[i]
            exponent = Signal(6, name=f"exponent_{i}")
            m.d.comb += exponent.eq(Mux(term.man, act.exponent + term.exp, 0))
            lanes.append((act.sign ^ term.sign, Mux(term.man, act.significand, 0), exponent))
        return lanes

    def raised(self):
        return self.step.significance


class SerialScale(wiring.Component):
    """``product = significand * scale``, exact, a bit of the 8-bit scale a cycle from the lowest; 8 cycles.

    The product's low bits take the places that the scale's bits leave. `start` may come every 8 cycles; `done` comes 8
    after it, for one cycle.
    """

    latency = SCALE_BITS

    def __init__(self, *, bits: int):
        self.bits = bits
        super().__init__({
            "start": In(1), "significand": In(signed(bits)), "exponent": In(SUM_EXPONENT_BITS), "scale": In(SCALE_BITS),
            "done": Out(1), "product": Out(signed(bits + SCALE_BITS)), "product_exponent": Out(SUM_EXPONENT_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        factor, high, low = Signal(signed(self.bits)), Signal(signed(self.bits)), Signal(SCALE_BITS)
        left = Signal(range(SCALE_BITS))
        # The first bit is taken as the operands arrive.
        now = Mux(self.start, self.significand, factor)
        total = Signal(signed(self.bits + 1))
        scale = Mux(self.start, self.scale, low)
        m.d.comb += [
            total.eq(Mux(self.start, 0, high) + Mux(scale[0], now, 0)),
            self.product.eq(Cat(low, high)),
        ]
        m.d.sync += self.done.eq(left == 1)
        with m.If(self.start | (left != 0)):
            m.d.sync += [high.eq(total >> 1), low.eq(Cat(scale[1:], total[0])),
                         left.eq(Mux(self.start, SCALE_BITS - 1, left - 1))]
        with m.If(self.start):
            m.d.sync += [factor.eq(self.significand), self.product_exponent.eq(self.exponent)]
        return m


class BitSerialFp16(wiring.Component):
    """A PE of BitMoD: ``group = scale * sum(act * weight)`` with FP16 activations.

    Members
    -------
    valid, step : In, as `BitSerialDot`, and the group's `scale`, which is taken with its last step
    done, product, exponent : Out, for one cycle a group's scaled sum; `value` says what number it is

    ``TERMS[kind]`` cycles for a weight of each lane; latency ``2 + 8`` from the last term. A group may not take fewer
    cycles than its scale, 8.
    """

    latency = BitSerialDot.latency + SerialScale.latency

    def __init__(self, *, bits: int = 24):
        self.dot = BitSerialDot(bits=bits)
        self.bits = bits
        step = {name: field.shape for name, field in self.dot.step.shape()}
        super().__init__({
            "valid": In(1), "step": In(data.StructLayout(step | {"scale": SCALE_BITS})),
            "done": Out(1), "product": Out(signed(bits + 1 + SCALE_BITS)), "exponent": Out(SUM_EXPONENT_BITS),
        })

    def value(self, product: int, exponent: int) -> Fraction:
        """The number that comes out: a product of the group's integers (FP4's doubled) and FP16 activations."""
        return self.dot.value(product, exponent)

    def reference(self, acts: Sequence[int], codes: Sequence[int], kind: WeightKind, select: int,
                  scale: int) -> tuple[int, int]:
        """(product, exponent) of a group: FP16 bits and weight codes, whole steps of four."""
        def steps():
            for at in range(0, len(codes), LANES):
                lanes = [terms(int(code), kind, select) for code in codes[at : at + LANES]]
                halves = [half_ints(int(act)) for act in acts[at : at + LANES]]
                for now in zip(*lanes, strict=True):
                    products = [(value * sign, own + exp) if sign else (0, 0)
                                for (value, own), (sign, exp, _) in zip(halves, now, strict=True)]
                    yield products, now[0][2]

        significand, exponent = self.dot.reference(steps())
        return significand * scale, exponent

    def elaborate(self, platform):
        m = Module()
        m.submodules.dot = dot = self.dot
        m.submodules.scale = scale = SerialScale(bits=self.bits + 1)
        held = Signal(SCALE_BITS)
        with m.If(self.valid & self.step.last):
            m.d.sync += held.eq(self.step.scale)
        m.d.comb += [
            dot.valid.eq(self.valid),
            *(dot.step[name].eq(self.step[name]) for name, _ in dot.step.shape()),
            scale.start.eq(dot.done), scale.significand.eq(dot.sum.significand), scale.exponent.eq(dot.sum.exponent),
            scale.scale.eq(held),
            self.done.eq(scale.done), self.product.eq(scale.product), self.exponent.eq(scale.product_exponent),
        ]
        return m
