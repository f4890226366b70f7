"""Activation functions in passes of the vector unit.

One line is one pass over a row. The order of the float32 operations is part of the result; it is repeated in
`wordline.sim.hardware_model`.
"""

import math
from collections.abc import Callable
from typing import Any

from wordline.compiler.builder import Builder, reg
from wordline.compiler.operands import ROW_X, S_CONSTANT, S_ONE, Vec, to_x
from wordline.rtl.isa import Factor, Function, Join

#: gelu_tanh(x) = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) = x / (1 + 2^(x * (LINEAR + CUBIC x^2))).
GELU_LINEAR = -2 * math.log2(math.e) * math.sqrt(2 / math.pi)
GELU_CUBIC = GELU_LINEAR * 0.044715
#: Abramowitz and Stegun 7.1.26: erf(z) = 1 - (a1 t + ... + a5 t^5) exp(-z^2), t = 1 / (1 + p z), z >= 0, with an
#: error of at most 1.5e-7. With z = |x| / sqrt(2), gelu(x) = max(x, 0) - |x| / 2 * (a1 t + ...) * exp(-x^2 / 2): wrong
#: by at most 0.75e-7 |x|, and with what float32 adds by less than 5e-7 |x|, which is measured, not proven.
#: Here are p / sqrt(2) and a1 / 2 to a5 / 2.
ERF_P = 0.3275911 / math.sqrt(2)
ERF_A = tuple(a / 2 for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))

#: Vectors of `n` elements, one behind the other, that a function needs in bank X; of the others, one.
SCRATCH = {"gelu": 3}


def constants(name: str) -> list[tuple[int, float]]:
    """Scalars that a function finds set, and their values."""
    return {"gelu_tanh": [(S_CONSTANT, GELU_LINEAR)], "gelu": [(S_ONE, 1.0), (S_CONSTANT, ERF_A[3])]}.get(name, [])


def activate(b: Builder, name: str, x: Vec, out: int, n: int, words: int, last: dict[str, Any]) -> None:
    """name(x) of `n` elements in `words` words, to word `out` of the row in bank X; the last pass has the fields
    `last` besides."""
    functions: dict[str, Callable[..., None]] = {"silu": _silu, "gelu": _gelu, "gelu_tanh": _gelu_tanh, "relu": _relu,
                                                 "relu2": _relu2}
    functions[name](b, x, [reg(ROW_X, out + i * words) for i in range(SCRATCH.get(name, 1))], n, last)


def _silu(b: Builder, x: Vec, places: list[tuple[int, int]], n: int, last: dict[str, Any]) -> None:
    """x * sigmoid(x), sigmoid(x) = 1 / (1 + 2^(-x / ln 2))"""
    (y,) = places
    b.vector(len=n, **x.a, multiply=Factor.IMMEDIATE, immediate=-math.log2(math.e), function=Function.EXP2,
             **to_x(y), parts=x.parts)
    b.vector(len=n, a=y, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP, **to_x(y))
    b.vector(len=n, a=y, multiply=Factor.B, **x.b, **to_x(y), parts=x.parts, **last)


def _gelu_tanh(b: Builder, x: Vec, places: list[tuple[int, int]], n: int, last: dict[str, Any]) -> None:
    (y,) = places
    b.vector(len=n, **x.a, multiply=Factor.B, **x.b, **to_x(y), parts=x.parts)
    b.vector(len=n, a=y, multiply=Factor.IMMEDIATE, immediate=GELU_CUBIC, addend=Factor.SCALAR,
             addend_scalar=S_CONSTANT, **to_x(y))
    b.vector(len=n, a=y, multiply=Factor.B, **x.b, function=Function.EXP2, **to_x(y), parts=x.parts)
    b.vector(len=n, a=y, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP, **to_x(y))
    b.vector(len=n, a=y, multiply=Factor.B, **x.b, **to_x(y), parts=x.parts, **last)


def _gelu(b: Builder, x: Vec, places: list[tuple[int, int]], n: int, last: dict[str, Any]) -> None:
    y, t, u = places
    a1, a2, a3, _, a5 = ERF_A
    b.vector(len=n, **x.a, addend=Factor.B, **x.b, negate_addend=1, join=Join.MAX, **to_x(u),
             parts=x.parts)  # |x|
    b.vector(len=n, a=u, multiply=Factor.IMMEDIATE, immediate=ERF_P, addend=Factor.SCALAR, addend_scalar=S_ONE,
             function=Function.RECIP, **to_x(t))
    b.vector(len=n, a=t, multiply=Factor.IMMEDIATE, immediate=a5, addend=Factor.SCALAR, addend_scalar=S_CONSTANT,
             **to_x(y))
    for a in (a3, a2, a1):
        b.vector(len=n, a=y, multiply=Factor.B, b=t, addend=Factor.IMMEDIATE, immediate=a, **to_x(y))
    b.vector(len=n, a=y, multiply=Factor.B, b=t, **to_x(y))
    b.vector(len=n, a=y, multiply=Factor.B, b=u, **to_x(y))
    b.vector(len=n, a=u, multiply=Factor.B, b=u, **to_x(t))
    b.vector(len=n, a=t, multiply=Factor.IMMEDIATE, immediate=-0.5 * math.log2(math.e), function=Function.EXP2,
             **to_x(t))
    b.vector(len=n, a=y, multiply=Factor.B, b=t, **to_x(y))
    b.vector(len=n, **x.a, addend=Factor.IMMEDIATE, immediate=0.0, join=Join.MAX, **to_x(t), parts=x.parts)
    b.vector(len=n, a=t, addend=Factor.B, b=y, negate_addend=1, **to_x(y), **last)


def _relu(b: Builder, x: Vec, places: list[tuple[int, int]], n: int, last: dict[str, Any]) -> None:
    (y,) = places
    b.vector(len=n, **x.a, addend=Factor.IMMEDIATE, immediate=0.0, join=Join.MAX, **to_x(y), parts=x.parts, **last)


def _relu2(b: Builder, x: Vec, places: list[tuple[int, int]], n: int, last: dict[str, Any]) -> None:
    (y,) = places
    _relu(b, x, places, n, {})
    b.vector(len=n, a=y, multiply=Factor.B, b=y, **to_x(y), **last)
