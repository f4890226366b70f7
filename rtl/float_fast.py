"""`rtl.float_ref` in fewer numpy calls: the same bits, computed the short way when no number is special.

A simulated model executes thousands of vector instructions of a few dozen elements each, where the
time goes into numpy calls, not into arithmetic. Each function here computes with numpy's own float32 and
then looks, in one or two calls, for a number that numpy treats differently (subnormals, NaN, infinities);
if there is one, `rtl.float_ref` computes again. Callers silence numpy's warnings (`np.errstate`).
"""

from collections.abc import Callable

import numpy as np

from wordline.rtl import float_ref as ref

#: ``2*bits - 1`` modulo 2^32 of the smallest normal number; zeros come out above, subnormals below.
_SMALLEST = 0x00FFFFFF
_MINUS_ZERO = np.float32(-0.0)
_T0, _T1, _T2 = (np.ascontiguousarray(np.moveaxis(ref.special_tables(), -1, 0)[i]) for i in range(3))


def _least(x: np.ndarray) -> int:
    """Smallest magnitude but zero, as ``2*bits - 1``."""
    if x.size == 1:
        return (2 * x.view(np.uint32).item() - 1) & 0xFFFFFFFF
    return np.minimum.reduce((x.view(np.uint32) << 1) - 1, axis=None, initial=0xFFFFFFFF)


def _has_nan(x: np.ndarray) -> bool:
    top = np.maximum.reduce(x, axis=None, initial=-np.inf)
    return bool(top != top)


def mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b of float32 arrays (not scalars)."""
    o = a * b
    # 2^-126 itself may have been rounded up from below.
    if _least(o) <= _SMALLEST or _least(a) < _SMALLEST or _least(b) < _SMALLEST or _has_nan(o):
        return ref.mul(a, b)
    return o


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b of float32 arrays."""
    o = a + b
    if _least(o) < _SMALLEST or _least(a) < _SMALLEST or _least(b) < _SMALLEST or _has_nan(o):
        return ref.add(a, b)
    return o


def exp2(x: np.ndarray) -> np.ndarray:
    x = np.minimum(np.maximum(x, np.float32(-200)), np.float32(200))
    if _has_nan(x):
        return ref.exp2(x)
    fixed = (x.astype(np.float64) * 2.0**23).astype(np.int64)
    bits = _evaluate(ref.EXP2, fixed >> 16 & 127, fixed & 0xFFFF)
    # A significand of 2^23 or more brings its own 1 to the exponent.
    bits += (fixed >> 23) + 126 << 23
    np.minimum(bits, 0x7F800000, out=bits)
    bits[bits < 1 << 23] = 0
    return bits.astype(np.uint32).view(np.float32)


def recip(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32).astype(np.int64)
    exponent = bits >> 23 & 255
    if _outside(exponent, 1, 252):
        return ref.recip(x)
    y = _evaluate(ref.RECIP, bits >> 16 & 127, bits & 0xFFFF)
    y += (252 - exponent << 23) | (bits & 1 << 31)
    return y.astype(np.uint32).view(np.float32)


def rsqrt(x: np.ndarray) -> np.ndarray:
    bits = x.view(np.uint32).astype(np.int64)
    exponent = bits >> 23  # with the sign, so that negative numbers are outside
    if _outside(exponent, 1, 254):
        return ref.rsqrt(x)
    odd = ~exponent & 1
    y = _evaluate(ref.RSQRT, (odd << 6) | (bits >> 17 & 63), bits >> 1 & 0xFFFF)
    y += 125 - (exponent - 127 - odd >> 1) << 23
    return y.astype(np.uint32).view(np.float32)


def _outside(values: np.ndarray, low: int, high: int) -> bool:
    return bool(np.minimum.reduce(values, axis=None, initial=high) < low
                or np.maximum.reduce(values, axis=None, initial=low) > high)


def _evaluate(function: int, segment: np.ndarray, r: np.ndarray) -> np.ndarray:
    y = _T2[function][segment]
    y *= r
    y >>= ref.FRACTION
    y += _T1[function][segment]
    y *= r
    y >>= ref.FRACTION
    y += _T0[function][segment]
    return np.maximum(y, 1 << 23, out=y)


def to_int(x: np.ndarray, bits: int) -> np.ndarray:
    """As `float_ref.float_to_int`."""
    top = np.float32((1 << (bits - 1)) - 1)
    rounded = np.minimum(np.maximum(np.rint(x), -top), top)
    return ref.float_to_int(x, bits) if _has_nan(rounded) else rounded.astype(np.int32)


def row_sum(x: np.ndarray) -> np.float32:
    """Sum of a vector in the order of `float_ref.row_sum`; adds no zeros behind the last element.

    A missing element must leave its partial sum alone, and the partial sum may be -0 (two numbers whose
    sum was flushed), so what fills the last 128 up is -0, the one number that changes nothing.
    """
    width = ref.SUM_WIDTH
    blocks = -(-max(x.size, 1) // width)
    work = np.empty((blocks + 1, width), np.float32)
    work[0] = 0
    elements = work[1:].reshape(-1)
    elements[: x.size] = x
    elements[x.size :] = _MINUS_ZERO
    partial = np.add.accumulate(work, axis=0)
    tree = np.empty(2 * width, np.float32)
    tree[width:] = partial[-1]
    half = width // 2
    while half:
        np.add(tree[2 * half : 3 * half], tree[3 * half : 4 * half], out=tree[half : 2 * half])
        half //= 2
    tree[0] = 0
    total = tree[1]
    if (total != total or _least(work) < _SMALLEST or _least(partial) < _SMALLEST
            or _least(tree) < _SMALLEST):
        return ref.row_sum(elements)
    return total


SPECIAL: dict[int, Callable[[np.ndarray], np.ndarray]] = {1: exp2, 2: recip, 3: rsqrt}
