"""Pieces that floating-point units share: fields of a number, rounding, normalisation."""

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
    """`value` shifted left until its top bit is set, and by how much; zero stays zero.

    The zeros are counted by a tree, so that a shift need not wait for the one before it.
    """
    width = len(value)
    count = leading_zeros(m, value, name)
    for i in reversed(range(len(count))):
        shifted = Signal(width, name=f"{name}_after{1 << i}")
        m.d.comb += shifted.eq(Mux(count[i], value << (1 << i), value))
        value = shifted
    return value, count


def leading_zeros(m: Module, value: Value, name: str) -> Value:
    """How many bits above the highest one that is set; meaningless for zero."""
    levels = (len(value) - 1).bit_length()
    # Per block of 2^k bits, from the top: whether it holds no one, and how many zeros lead it.
    bits = list(reversed(list(Cat(Const(0, (1 << levels) - len(value)), value))))
    blocks: list[tuple[Value, list[Value]]] = [(~bit, []) for bit in bits]
    for level in range(levels):
        merged = []
        for i, ((high, ours), (low, theirs)) in enumerate(zip(blocks[::2], blocks[1::2], strict=True)):
            empty = Signal(name=f"{name}_empty{1 << level}_{i}")
            count = Signal(level + 1, name=f"{name}_count{1 << level}_{i}")
            m.d.comb += [empty.eq(high & low), count.eq(Cat(Mux(high, Cat(theirs), Cat(ours)), high))]
            merged.append((empty, list(count)))
        blocks = merged
    return Cat(blocks[0][1])


def shift_right_sticky(m: Module, value: Value, amount: Value, name: str = "align") -> Value:
    """`value >> amount`, with every bit that falls out or-ed into bit 0; a signed value keeps its sign."""
    for i in range(len(amount)):
        step = min(1 << i, len(value))
        shifted = Signal(value.shape(), name=f"{name}_by{1 << i}")
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
    rounded = Signal(31, name=f"{name}_magnitude")
    result = Signal(32, name=name)
    # One addition for both fields: a carry out of the mantissa leaves it zero, and next to exponent 254
    # that is how infinity is written.
    m.d.comb += [
        rounded.eq(Cat(kept[:23], exponent[:8]) + up),
        result.eq(Cat(rounded, sign)),
    ]
    with m.If(exponent < 1):
        m.d.comb += result.eq(Cat(Const(0, 31), sign))
    with m.Elif(exponent > 254):
        m.d.comb += result.eq(Cat(Const(INFINITY, 31), sign))
    return result
