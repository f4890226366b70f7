"""Float32 adder."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import (
    INFINITY,
    NAN,
    delay,
    normalise,
    round_pack,
    shift_right_sticky,
    unpack,
)


class FloatAdd(wiring.Component):
    """``o = a + b`` in float32 as `rtl.float_ref.add` says, a new pair every cycle.

    Latency 5: order by magnitude, align, add, normalise, round.
    """

    latency = 5

    a: In(32)
    b: In(32)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        a, b = unpack(self.a), unpack(self.b)
        swap = Signal()
        m.d.comb += swap.eq(self.a[:31] < self.b[:31])

        large, small = Signal(24), Signal(24)
        exponent, distance = Signal(8), Signal(8)
        sign, subtract = Signal(), Signal()
        is_nan, is_inf, minus_zero = Signal(), Signal(), Signal()
        m.d.sync += [
            large.eq(Mux(swap, b.significand, a.significand)),
            small.eq(Mux(swap, a.significand, b.significand)),
            exponent.eq(Mux(swap, b.exponent, a.exponent)),
            distance.eq(Mux(swap, b.exponent - a.exponent, a.exponent - b.exponent)),
            sign.eq(Mux(swap, b.sign, a.sign)),
            subtract.eq(a.sign ^ b.sign),
            is_nan.eq(a.is_nan | b.is_nan | (a.is_inf & b.is_inf & (a.sign ^ b.sign))),
            is_inf.eq(a.is_inf | b.is_inf),
            minus_zero.eq(a.is_zero & b.is_zero & a.sign & b.sign),
        ]

        # Three bits below the significand (guard, round, sticky) make the rounding exact; a distance
        # above 31 only leaves the sticky bit, as one of 31 does.
        aligned = Signal(27)
        amount = Signal(5)
        m.d.comb += amount.eq(Mux(distance[5:].any(), 31, distance[:5]))
        m.d.sync += aligned.eq(shift_right_sticky(m, Cat(Const(0, 3), small), amount))
        total = Signal(28)
        wide = Cat(Const(0, 3), delay(m, large, 1, "large"))
        m.d.sync += total.eq(Mux(delay(m, subtract, 1, "subtract"), wide - aligned, wide + aligned))

        shifted, places = normalise(m, total)
        normal = Signal(28)
        normal_exponent = Signal(signed(10))
        exponent = delay(m, exponent, 2, "exponent")
        cancelled = Signal()
        m.d.sync += [
            normal.eq(shifted),
            normal_exponent.eq(exponent + 1 - places),
            cancelled.eq(total == 0),
        ]
        sign, is_nan, is_inf, minus_zero = (
            delay(m, s, 3, s.name) for s in (sign, is_nan, is_inf, minus_zero))
        rounded = round_pack(m, sign, normal_exponent, normal, guard=4)
        with m.If(is_nan):
            m.d.sync += self.o.eq(NAN)
        with m.Elif(is_inf):
            m.d.sync += self.o.eq(Cat(Const(INFINITY, 31), sign))
        with m.Elif(cancelled):
            m.d.sync += self.o.eq(Cat(Const(0, 31), minus_zero))
        with m.Else():
            m.d.sync += self.o.eq(rounded)
        return m
