"""The float32 arithmetic of the vector unit and of the drain, in numpy: this is the specification.

IEEE 754 single precision, round to nearest even, with three simplifications that hardware for inference
makes: a subnormal input counts as zero of its sign; a result whose exact magnitude is below 2^-126
becomes zero of its sign (decided before rounding); a NaN result is always 0x7fc00000.
`recip(0)` and `rsqrt(0)` are 0, so that a row of zeros quantises to zeros.
"""

from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np

Floats = np.ndarray | np.floating

TINY = np.float32(2.0**-126)
_SAFE = np.float32(2.0**-125)  # a product that is rounded to this or more was not below 2^-126 before
NAN_BITS = np.uint32(0x7FC00000)
#: A sum has this many partial sums: element i goes to partial sum i mod SUM_WIDTH.
SUM_WIDTH = 128


def to_bits(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float32).view(np.uint32)


def from_bits(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.uint32).view(np.float32)


def flush(x: Floats) -> np.ndarray:
    """Subnormals to zeros of their sign, NaN to the canonical one."""
    x = np.asarray(x, np.float32)
    size = np.abs(x)
    if size.min(initial=TINY) >= TINY:  # which a NaN is not either
        return x
    x = np.where(size < TINY, np.copysign(np.float32(0), x), x)
    bad = np.isnan(x)
    return np.where(bad, from_bits(NAN_BITS), x) if bad.any() else x


def mul(a: Floats, b: Floats) -> np.ndarray:
    """a * b."""
    with np.errstate(all="ignore"):
        a, b = flush(a), flush(b)
        product = a * b
        if np.abs(product).min(initial=_SAFE) >= _SAFE:
            return product
        exact = a.astype(np.float64) * b
        small = np.abs(exact) < 2.0**-126
        return flush(np.where(small, np.copysign(0.0, exact), exact).astype(np.float32))


def add(a: Floats, b: Floats) -> np.ndarray:
    """a + b. A sum below 2^-126 is exact before it is flushed."""
    with np.errstate(all="ignore"):
        return flush(flush(a) + flush(b))


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger; a NaN operand gives NaN; of two zeros, +0 if there is one."""
    a, b = np.broadcast_arrays(flush(a), flush(b))
    ka, kb = order_key(a), order_key(b)
    result = np.where(ka >= kb, a, b)
    return flush(np.where(np.isnan(a) | np.isnan(b), np.float32(np.nan), result))


def order_key(x: np.ndarray) -> np.ndarray:
    """int64 keys that compare as the floats do, with -0 below +0."""
    bits = to_bits(x).astype(np.int64)
    return np.where(bits >> 31, 0x7FFFFFFF - bits, bits)


def float_to_int(x: np.ndarray, bits: int) -> np.ndarray:
    """Round to nearest even, saturate to +-(2^(bits-1)-1), NaN to 0: int32."""
    top = (1 << (bits - 1)) - 1
    x = np.nan_to_num(flush(x).astype(np.float64), nan=0.0, posinf=top, neginf=-top)
    return np.clip(np.rint(x), -top, top).astype(np.int32)


def int_to_float(x: np.ndarray) -> np.ndarray:
    """int64 to float32, round to nearest even."""
    return np.asarray(x, np.int64).astype(np.float32)


def row_sum(x: np.ndarray) -> np.float32:
    """Sum of a vector in the canonical order, which no number of lanes changes."""
    return np.float32(row_sums(np.asarray(x, np.float32)))


def row_sums(x: np.ndarray) -> np.ndarray:
    """`row_sum` along the last axis: float32[..., N] to float32[...].

    The last block is filled up with -0, the number that changes no partial sum, not even a sum of -0.
    """
    blocks = -(-x.shape[-1] // SUM_WIDTH)
    padded = np.full((*x.shape[:-1], blocks * SUM_WIDTH), -0.0, np.float32)
    padded[..., : x.shape[-1]] = x
    partial = np.zeros((*x.shape[:-1], SUM_WIDTH), np.float32)
    for start in range(0, blocks * SUM_WIDTH, SUM_WIDTH):
        partial = add(partial, padded[..., start : start + SUM_WIDTH])
    while partial.shape[-1] > 1:
        half = partial.shape[-1] // 2
        partial = add(partial[..., :half], partial[..., half:])
    return partial[..., 0]


# Special functions: piecewise quadratics in fixed point.
#
# out = c0 + (((c1 + ((c2*r) >> 16)) * r) >> 16), r = 16 bits of position inside one of 128 segments.
# The scale is 2^24 for recip and rsqrt and 2^23 for exp2, so that out is always a 24-bit significand
# (2^23 .. 2^24) and c1 fits 18 signed bits: two 18 x 18 multipliers do it.

SEGMENTS = 128
FRACTION = 16
EXP2, RECIP, RSQRT = 0, 1, 2


@lru_cache(maxsize=1)
def special_tables() -> np.ndarray:
    """int64[3, SEGMENTS, 3]: coefficients c0, c1, c2 of exp2, recip, rsqrt.

    Quadratic through the three Chebyshev nodes of each segment, in decimal arithmetic of 30 digits, so that
    every machine gets the same integers. rsqrt has 64 segments in [1, 2) and 64 in [2, 4).
    """
    with localcontext() as context:
        context.prec = 30
        one, two = Decimal(1), Decimal(2)
        half = Decimal(3).sqrt() / 4
        nodes = [Decimal("0.5") - half, Decimal("0.5"), Decimal("0.5") + half]

        def value(function: int, position: Decimal) -> Decimal:
            if function == EXP2:
                return two ** (position / SEGMENTS) * 2**23
            if function == RECIP:
                return one / (1 + position / SEGMENTS) * 2**24
            x = 1 + position / 64 if position < 64 else 2 + 2 * (position - 64) / 64
            return one / x.sqrt() * 2**24

        table = np.zeros((3, SEGMENTS, 3), np.int64)
        for function in (EXP2, RECIP, RSQRT):
            for segment in range(SEGMENTS):
                y = [value(function, segment + node) for node in nodes]
                d01 = (y[1] - y[0]) / (nodes[1] - nodes[0])
                d12 = (y[2] - y[1]) / (nodes[2] - nodes[1])
                c2 = (d12 - d01) / (nodes[2] - nodes[0])
                c1 = d01 - c2 * (nodes[0] + nodes[1])
                c0 = y[0] - nodes[0] * (c1 + c2 * nodes[0])
                table[function, segment] = [int(c.to_integral_value()) for c in (c0, c1, c2)]
        # Exact where the functions are: 1.0 gives 1.0.
        table[EXP2, 0, 0] = 1 << 23
        table[RECIP, 0, 0] = table[RSQRT, 0, 0] = 1 << 24
    return table


@lru_cache(maxsize=3)
def _coefficients(function: int) -> tuple[np.ndarray, ...]:
    """c0, c1, c2 of every segment, each int32 (c2 * r stays below 2^31, c1 * r does not)."""
    table = special_tables()[function]
    assert np.abs(table[:, 2]).max() < 1 << 14
    return tuple(np.ascontiguousarray(column, np.int32) for column in table.T)


def _evaluate(function: int, segment: np.ndarray, r: np.ndarray) -> np.ndarray:
    """int32 significands, for int32 segments and positions."""
    c0, c1, c2 = (column.take(segment) for column in _coefficients(function))
    slope = c1 + ((c2 * r) >> FRACTION)
    y = c0 + ((slope.astype(np.int64) * r) >> FRACTION).astype(np.int32)
    return np.maximum(y, 1 << 23)  # rounding may fall short of the smallest significand by one


def _compose(sign: np.ndarray, exponent: np.ndarray, significand: np.ndarray) -> np.ndarray:
    """Float bits, int32, from a significand in 2^23 .. 2^24 (2^24 counts as 2.0) and the exponent of 2^23. `sign` is
    the sign bit in its place."""
    # A significand of 2^24 makes the exponent one more and the mantissa zero by itself.
    bits = (exponent << 23) + (significand - (1 << 23))
    top = exponent + (significand >> 24)
    bits = np.where(top <= 0, 0, np.where(top >= 255, 0x7F800000, bits))
    return bits | sign


def _split(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """int32: the sign bit in its place, the exponent, the mantissa."""
    bits = flush(x).view(np.int32)
    return bits & np.int32(-1 << 31), bits >> 23 & 255, bits & 0x7FFFFF


def exp2(x: np.ndarray) -> np.ndarray:
    """2^x. The argument is cut to 23 fraction bits towards zero."""
    x = np.asarray(x, np.float32)
    with np.errstate(invalid="ignore"):  # NaN comes last
        # 2^23 times the argument is exact in double precision, and the conversion cuts towards zero.
        fixed = (np.clip(x, -160, 160).astype(np.float64) * 2.0**23).astype(np.int32)
    whole, fraction = fixed >> 23, fixed & 0x7FFFFF
    y = _evaluate(EXP2, fraction >> FRACTION, fraction & 0xFFFF)
    result = from_bits(_compose(np.int32(0), whole + 127, y).view(np.uint32))
    return np.where(np.isnan(x), from_bits(NAN_BITS), result)


def recip(x: np.ndarray) -> np.ndarray:
    """1/x; 0 for zeros."""
    sign, exponent, mantissa = _split(x)
    y = _evaluate(RECIP, mantissa >> FRACTION, mantissa & 0xFFFF)
    result = _compose(sign, 253 - exponent, y)
    result = np.where(exponent == 255, sign, result)
    result = from_bits(np.where(exponent == 0, 0, result).view(np.uint32))
    return np.where(np.isnan(x), from_bits(NAN_BITS), result)


def rsqrt(x: np.ndarray) -> np.ndarray:
    """1/sqrt(x); 0 for zeros, NaN for negative numbers."""
    sign, exponent, mantissa = _split(x)
    odd = (exponent & 1) ^ 1  # the unbiased exponent is odd: argument in [2, 4)
    segment = (odd << 6) | mantissa >> 17
    r = mantissa >> 1 & 0xFFFF
    y = _evaluate(RSQRT, segment, r)
    result = _compose(np.int32(0), 126 - ((exponent - 127 - odd) >> 1), y)
    result = from_bits(np.where((exponent == 0) | (exponent == 255), 0, result).view(np.uint32))
    bad = np.isnan(x) | ((sign != 0) & (exponent > 0))
    return np.where(bad, from_bits(NAN_BITS), result)
