"""One lane of the vector unit: multiply, add or max, special function or rounding."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import INFINITY, NAN, delay
from wordline.rtl.float_add import FloatAdd
from wordline.rtl.float_convert import FloatToInt
from wordline.rtl.float_mul import FloatMul
from wordline.rtl.isa import Factor, Function, IntBits, Join
from wordline.rtl.sfu import SpecialFunction


def flushed(bits):
    """A subnormal as zero of its sign."""
    return Mux(bits[23:31] == 0, Cat(Const(0, 31), bits[31]), bits)


def is_nan(bits):
    return bits[:31] > INFINITY


def order_key(bits):
    """A 32-bit unsigned key that compares as the floats do, with -0 below +0."""
    return Cat(bits[:31] ^ bits[31].replicate(31), ~bits[31])


def from_order_key(key):
    """The float of an `order_key`."""
    return Cat(key[:31] ^ (~key[31]).replicate(31), ~key[31])


class VectorLane(wiring.Component):
    """``o = function(join(a * f, c))``; the controls are constant while elements are in flight.

    An instruction's elements pass only the stages that it uses, and a register: product, sum or maximum with a register
    in front, integer or special function. `latency` says how long that takes.

    Members
    -------
    a, b : In(32), an element of each source, float32
    factor, addend : In(32), the scalar or immediate in place of b
    multiply, add : In(Factor), where f and c come from
    join, negate_product, negate_addend, function, bits : In, as in `VectorInstruction`
    o : Out(32)
    """

    multiply_latency = FloatMul.latency
    add_latency = 1 + FloatAdd.latency
    plain_latency = 1
    int_latency = FloatToInt.latency
    special_latency = 1 + SpecialFunction.latency

    @classmethod
    def latency(cls, multiply: Factor, addend: Factor, function: Function) -> int:
        """Cycles from an element to its result."""
        last = {Function.NONE: cls.plain_latency, Function.INT: cls.int_latency}.get(function, cls.special_latency)
        return (cls.multiply_latency * (multiply != Factor.NONE) + cls.add_latency * (addend != Factor.NONE) + last)

    a: In(32)
    b: In(32)
    factor: In(32)
    addend: In(32)
    multiply: In(Factor)
    add: In(Factor)
    join: In(Join)
    negate_product: In(1)
    negate_addend: In(1)
    function: In(Function)
    bits: In(IntBits)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.mul = mul = FloatMul()
        m.submodules.adder = adder = FloatAdd()
        m.submodules.to_int = to_int = FloatToInt()
        m.submodules.sfu = sfu = SpecialFunction()

        m.d.comb += [mul.a.eq(self.a), mul.b.eq(Mux(self.multiply == Factor.B, self.b, self.factor))]
        plain = self.multiply == Factor.NONE
        product = Mux(plain, self.a, mul.o)
        product = Cat(product[:31], product[31] ^ self.negate_product)
        late_b = Mux(plain, self.b, delay(m, self.b, mul.latency, "b"))
        addend = Mux(self.add == Factor.B, late_b, self.addend)
        addend = Cat(addend[:31], addend[31] ^ self.negate_addend)

        p, c, larger = Signal(32), Signal(32), Signal(32)
        m.d.sync += [p.eq(product), c.eq(addend)]
        m.d.comb += [adder.a.eq(p), adder.b.eq(c)]
        fp, fc = flushed(p), flushed(c)
        m.d.comb += larger.eq(Mux(order_key(fp) >= order_key(fc), fp, fc))
        with m.If(is_nan(p) | is_nan(c)):
            m.d.comb += larger.eq(NAN)
        late = delay(m, larger, adder.latency, "larger")
        joined, total = Signal(32), Signal(32)
        m.d.comb += joined.eq(Mux(self.add == Factor.NONE, product, Mux(self.join == Join.MAX, late, adder.o)))
        m.d.sync += total.eq(joined)

        m.d.comb += [sfu.a.eq(total), sfu.function.eq(self.function),
                     to_int.a.eq(joined), to_int.bits.eq(self.bits)]
        none, integer = Signal(), Signal()
        m.d.sync += [none.eq(self.function == Function.NONE), integer.eq(self.function == Function.INT)]
        rounded = Cat(to_int.o, to_int.o[15].replicate(16))
        m.d.comb += self.o.eq(Mux(none, total, Mux(integer, rounded, sfu.o)))
        return m
