"""Conversions between float32 and integers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import delay, normalise, round_pack, unpack
from wordline.rtl.isa import IntBits


class FloatToInt(wiring.Component):
    """Round to nearest even and saturate to a symmetric integer of 2, 4, 8 or 16 bits.

    As `rtl.float_ref.float_to_int` says; NaN gives 0. Latency 3: distance, shift, round.

    Members
    -------
    a : In(32), float32
    bits : In(IntBits), constant while numbers are in flight
    o : Out(signed(16))
    """

    latency = 3

    a: In(32)
    bits: In(IntBits)
    o: Out(signed(16))

    def elaborate(self, platform):
        m = Module()
        held, places = Signal(32), Signal(range(42))
        a = unpack(self.a)
        # exponent 142 (2^15) leaves the significand's top bit at bit 17.
        m.d.sync += [held.eq(self.a), places.eq(Mux(a.exponent < 142 - 24, 25, 142 - a.exponent))]
        a = unpack(held)
        # Fixed point with 15 integer bits, a round bit and a sticky bit. Above 2^15 it saturates anyway.
        fixed, sign, large = Signal(18), Signal(), Signal()
        wide = Signal(41)
        m.d.comb += wide.eq(Cat(Const(0, 17), a.significand) >> places)
        m.d.sync += [
            fixed.eq(Cat(wide[:24].any(), wide[24:])),
            sign.eq(a.sign),
            large.eq((a.exponent >= 142) & ~a.is_nan),
        ]
        with m.If(a.is_nan):
            m.d.sync += fixed.eq(0)
        rounded, top, magnitude = Signal(17), Signal(15), Signal(15)
        m.d.comb += [
            rounded.eq(fixed[2:] + (fixed[1] & (fixed[0] | fixed[2]))),
            magnitude.eq(Mux(large | (rounded > top), top, rounded)),
        ]
        with m.Switch(self.bits):
            for bits in IntBits:
                with m.Case(bits):
                    m.d.comb += top.eq((1 << int(bits.name[1:]) - 1) - 1)
        m.d.sync += self.o.eq(Mux(sign, -magnitude, magnitude))
        return m


class IntToFloat(wiring.Component):
    """Signed integer of `width` bits to float32, round to nearest even. Latency 3."""

    latency = 3

    def __init__(self, width: int):
        self.width = width
        super().__init__({"a": In(signed(width)), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        width = max(self.width, 28)
        sign, magnitude = Signal(), Signal(width)
        m.d.sync += [sign.eq(self.a[-1]), magnitude.eq(Mux(self.a[-1], -self.a, self.a))]
        shifted, places = normalise(m, magnitude)
        normal, exponent = Signal(26), Signal(signed(10))
        is_zero = Signal()
        m.d.sync += [
            normal.eq(Cat(shifted[: width - 25].any(), shifted[width - 25 :])),
            exponent.eq(127 + width - 1 - places),
            is_zero.eq(magnitude == 0),
        ]
        rounded = round_pack(m, delay(m, sign, 1, "sign"), exponent, normal, guard=2)
        m.d.sync += self.o.eq(Mux(is_zero, 0, rounded))
        return m


def int8_to_float(value, m: Module, name: str):
    """An 8-bit integer as float32: exact, combinational."""
    magnitude = Signal(8, name=f"{name}_magnitude")
    m.d.comb += magnitude.eq(Mux(value[7], -value.as_signed(), value))
    shifted, places = normalise(m, magnitude, f"{name}_normal")
    result = Signal(unsigned(32), name=f"{name}_float")
    m.d.comb += result.eq(Mux(magnitude == 0, 0, Cat(
        Const(0, 16), shifted[:7], (Const(127 + 7, 8) - places)[:8], value[7])))
    return result
