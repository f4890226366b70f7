"""Float32 multiplier."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import INFINITY, NAN, delay, round_pack, unpack


class FloatMul(wiring.Component):
    """``o = a * b`` in float32 as `rtl.float_ref.mul` says, a new pair every cycle.

    Latency 4: operands as they come (block RAM is late), two partial products, their sum, round. Nothing
    flushes the significand of a subnormal: the result is then a zero or NaN whatever the product is.
    """

    latency = 4

    a: In(32)
    b: In(32)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        held_a, held_b = Signal(32), Signal(32)
        m.d.sync += [held_a.eq(self.a), held_b.eq(self.b)]
        a, b = unpack(held_a), unpack(held_b)
        significand_a, significand_b = Signal(24), Signal(24)
        m.d.comb += [significand_a.eq(Cat(held_a[:23], Const(1, 1))),
                     significand_b.eq(Cat(held_b[:23], Const(1, 1)))]
        exponent = Signal(signed(10))
        sign, is_nan, is_inf, is_zero = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            exponent.eq(a.exponent + b.exponent - 127),
            sign.eq(a.sign ^ b.sign),
            is_nan.eq(a.is_nan | b.is_nan | (a.is_inf & b.is_zero) | (a.is_zero & b.is_inf)),
            is_inf.eq(a.is_inf | b.is_inf),
            is_zero.eq(a.is_zero | b.is_zero),
        ]
        # 17 bits are what a signed multiplier block of 18 takes.
        lower, upper = Signal(24 + 17), Signal(24 + 7)
        settled = Signal(48)
        m.d.sync += [
            lower.eq(significand_a * significand_b[:17]), upper.eq(significand_a * significand_b[17:]),
            settled.eq(lower + (upper << 17)),
        ]
        sign, is_nan, is_inf, is_zero = (delay(m, s, 1, s.name) for s in (sign, is_nan, is_inf, is_zero))
        exponents = Signal(signed(10)), Signal(signed(11))
        m.d.sync += [exponents[0].eq(exponent), exponents[1].eq(exponent + 1)]

        # The product of two significands lies in [1, 4): at most one place to normalise.
        high = settled[47]
        # Keep 24 bits, a round bit and a sticky one.
        significand = Signal(26)
        m.d.comb += significand.eq(Mux(high, Cat(settled[:23].any(), settled[23:]),
                                       Cat(settled[:22].any(), settled[22:47])))
        rounded = round_pack(m, sign, Mux(high, exponents[1], exponents[0]), significand, guard=2)
        with m.If(is_nan):
            m.d.sync += self.o.eq(NAN)
        with m.Elif(is_inf):
            m.d.sync += self.o.eq(Cat(Const(INFINITY, 31), sign))
        with m.Elif(is_zero):
            m.d.sync += self.o.eq(Cat(Const(0, 31), sign))
        with m.Else():
            m.d.sync += self.o.eq(rounded)
        return m
