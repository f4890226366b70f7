"""Special functions: 2^x, 1/x, 1/sqrt(x)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import INFINITY, NAN, delay, unpack
from wordline.rtl.float_ref import EXP2, RECIP, RSQRT, SEGMENTS, special_tables
from wordline.rtl.isa import Function

C0_BITS, C1_BITS, C2_BITS = 25, 18, 13


class SpecialFunction(wiring.Component):
    """``o = function(a)`` as `rtl.float_ref` says, a new argument every cycle.

    Piecewise quadratic in fixed point: one table of 3 x 128 segments, multipliers of 16 x 13 and 17 x 18
    bits. Latency 8: shift, reduce, look up, first product, slope, second product, sum, compose.

    Members
    -------
    a : In(32), float32
    function : In(Function), EXP2, RECIP or RSQRT; constant while numbers are in flight
    o : Out(32)
    """

    latency = 8

    a: In(32)
    function: In(Function)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        a = unpack(self.a)

        # Reduce: which segment, where in it, and the exponent that the significand will get.
        unbiased = Signal(signed(9))
        fixed, magnitude = Signal(signed(32)), Signal(31)
        m.d.comb += unbiased.eq(a.exponent - 127)
        with m.If(unbiased >= 0):
            m.d.comb += magnitude.eq(a.significand << unbiased[:3])
        with m.Elif(unbiased > -25):
            m.d.comb += magnitude.eq(a.significand >> (-unbiased)[:5])
        # A register between the shift and the negation.
        held, shifted = Signal(32), Signal(31)
        m.d.sync += [held.eq(self.a), shifted.eq(magnitude)]
        a, mantissa, unbiased = unpack(held), held[:23], delay(m, unbiased, 1, "unbiased")
        m.d.comb += fixed.eq(Mux(a.sign, -shifted, shifted))
        odd = ~a.exponent[0]
        address, r = Signal(range(3 * SEGMENTS)), Signal(16)
        exponent = Signal(signed(11))
        sign, is_nan, is_inf, is_zero = Signal(), Signal(), Signal(), Signal()
        with m.Switch(self.function):
            with m.Case(Function.RECIP):
                m.d.sync += [
                    address.eq(RECIP * SEGMENTS + mantissa[16:]),
                    r.eq(mantissa[:16]),
                    exponent.eq(253 - a.exponent),
                    sign.eq(a.sign & ~a.is_zero),
                    is_nan.eq(a.is_nan),
                    is_inf.eq(0),
                    is_zero.eq(a.is_zero | a.is_inf),
                ]
            with m.Case(Function.RSQRT):
                m.d.sync += [
                    address.eq(RSQRT * SEGMENTS + Cat(mantissa[17:], odd)),
                    r.eq(mantissa[1:17]),
                    exponent.eq(126 - ((unbiased - odd) >> 1)),
                    sign.eq(0),
                    is_nan.eq(a.is_nan | (a.sign & ~a.is_zero)),
                    is_inf.eq(0),
                    is_zero.eq(a.is_zero | a.is_inf),
                ]
            with m.Default():
                huge = unbiased >= 7
                m.d.sync += [
                    address.eq(EXP2 * SEGMENTS + fixed[16:23]),
                    r.eq(fixed[:16]),
                    exponent.eq((fixed >> 23) + 127),
                    sign.eq(0),
                    is_nan.eq(a.is_nan),
                    is_inf.eq(huge & ~a.sign),
                    is_zero.eq(huge & a.sign),
                ]

        rows = special_tables().reshape(-1, 3)
        masks = [(1 << bits) - 1 for bits in (C0_BITS, C1_BITS, C2_BITS)]
        words = [(int(c0) & masks[0]) | (int(c1) & masks[1]) << C0_BITS
                 | (int(c2) & masks[2]) << (C0_BITS + C1_BITS) for c0, c1, c2 in rows]
        words += [0] * (4 * SEGMENTS - len(words))
        m.submodules.table = table = Memory(shape=C0_BITS + C1_BITS + C2_BITS, depth=len(words),
                                            init=words)
        read = table.read_port()
        m.d.comb += read.addr.eq(address)
        c0 = read.data[:C0_BITS]
        c1 = read.data[C0_BITS : C0_BITS + C1_BITS].as_signed()
        c2 = read.data[C0_BITS + C1_BITS :]

        product2 = Signal(C2_BITS + 16)
        slope = Signal(signed(C1_BITS + 1))
        product1 = Signal(signed(C1_BITS + 1 + 17))
        r2 = delay(m, r, 1, "r")
        m.d.sync += product2.eq(c2 * r2)
        m.d.sync += slope.eq(delay(m, c1, 1, "c1") + (product2 >> 16))
        m.d.sync += product1.eq(slope * delay(m, r2, 2, "r2"))
        y = Signal(C0_BITS)
        m.d.sync += y.eq(delay(m, c0, 3, "c0") + (product1 >> 16))

        # Everything about the exponent but the carry that y brings is settled a cycle before y.
        exponent, sign, is_nan, is_inf, is_zero = (
            delay(m, s, 4, s.name) for s in (exponent, sign, is_nan, is_inf, is_zero))
        huge, tiny, lowest = Signal(), Signal(), Signal()
        m.d.sync += [
            huge.eq(is_inf | (~is_zero & (exponent >= 255))),
            tiny.eq(is_zero | (exponent < 0)), lowest.eq(exponent == 0),
        ]
        final, sign, is_nan = (delay(m, s, 1, f"{name}_late") for s, name in (
            (exponent[:8], "exponent"), (sign, "sign"), (is_nan, "is_nan")))
        with m.If(is_nan):
            m.d.sync += self.o.eq(NAN)
        with m.Elif(huge):
            m.d.sync += self.o.eq(Cat(Const(INFINITY, 31), sign))
        with m.Elif(tiny | (lowest & ~y[24])):
            m.d.sync += self.o.eq(Cat(Const(0, 31), sign))
        with m.Else():
            # A y short of 2^23, or 2^24 itself, is a power of two; 2^24 next to exponent 254 is infinity.
            m.d.sync += self.o.eq(Cat(Mux(y[23], y[:23], 0), (final + y[24])[:8], sign))
        return m
