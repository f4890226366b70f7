"""Pieces that the float32 units share: fields of a number, rounding, normalisation."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

NAN = 0x7FC00000
INFINITY = 0x7F800000


@dataclass
class Fields:
    """A float32 taken apart; subnormals read as zero. `significand` has 24 bits, 0 for zeros."""

    sign: Value
    exponent: Value
    significand: Value
    is_zero: Value
    is_inf: Value
    is_nan: Value


def unpack(bits: Value) -> Fields:
    mantissa, exponent, sign = bits[:23], bits[23:31], bits[31]
    is_zero = exponent == 0
    top = exponent == 255
    return Fields(sign, exponent, Mux(is_zero, 0, Cat(mantissa, Const(1, 1))), is_zero,
                  top & (mantissa == 0), top & (mantissa != 0))


def delay(m: Module, value: Value, cycles: int, name: str = "delayed") -> Value:
    """`value`, `cycles` cycles later."""
    for i in range(cycles):
        register = Signal(value.shape(), name=f"{name}_{i}")
        m.d.sync += register.eq(value)
        value = register
    return value


def normalise(m: Module, value: Value, name: str = "normal") -> tuple[Value, Value]:
    """`value` shifted left until its top bit is set, and by how much; zero stays zero."""
    width = len(value)
    shifts = []
    step = 1 << (width - 1).bit_length() - 1
    while step:
        clear = Signal(name=f"{name}_by{step}")
        shifted = Signal(width, name=f"{name}_after{step}")
        m.d.comb += [clear.eq(value[width - step :] == 0),
                     shifted.eq(Mux(clear, value << step, value))]
        shifts.insert(0, clear)
        value = shifted
        step //= 2
    return value, Cat(shifts)


def shift_right_sticky(m: Module, value: Value, amount: Value, name: str = "align") -> Value:
    """`value >> amount`, with every bit that falls out or-ed into bit 0."""
    for i in range(len(amount)):
        step = min(1 << i, len(value))
        shifted = Signal(len(value), name=f"{name}_by{1 << i}")
        fallen = value[:step].any()
        m.d.comb += shifted.eq(Mux(amount[i], (value >> step) | fallen, value))
        value = shifted
    return value


def round_pack(m: Module, sign: Value, exponent: Value, significand: Value, *, guard: int,
               name: str = "rounded") -> Value:
    """Round to nearest even and pack.

    `significand` has 24 + `guard` bits with its top bit set; the lowest is sticky. `exponent` is signed
    and biased, belongs to the top bit, and flushes to zero below 1 and to infinity above 254.
    """
    kept = significand[guard:]
    up = significand[guard - 1] & (significand[: guard - 1].any() | kept[0])
    rounded = Signal(25, name=f"{name}_significand")
    final = Signal(len(exponent) + 1, name=f"{name}_exponent")
    result = Signal(32, name=name)
    m.d.comb += [
        rounded.eq(kept + up),
        final.eq((exponent + rounded[24])[: len(final)]),
        result.eq(Cat(rounded[:23], final[:8], sign)),
    ]
    with m.If(exponent < 1):
        m.d.comb += result.eq(Cat(Const(0, 31), sign))
    with m.Elif(exponent + rounded[24] > 254):
        m.d.comb += result.eq(Cat(Const(INFINITY, 31), sign))
    return result
