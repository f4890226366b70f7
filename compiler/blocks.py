"""What every part of a transformer is made of: rows, norms, biases, activation functions, quantisation.

One line is one pass of the vector unit over a row. The order of the float32 operations is part of the result; it is
repeated in `wordline.sim.hardware_model`.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from wordline.compiler.architecture import ModelConfig
from wordline.compiler.builder import Builder, Operand, Parts, reg
from wordline.compiler.image import Image
from wordline.compiler.places import Places
from wordline.compiler.weights import Matrix
from wordline.pe.datatypes import act_max
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    Destination,
    Factor,
    Function,
    IntBits,
    Join,
    Operation,
    Reduction,
    SourceA,
    SourceB,
)

# Registers. PROMPT, LAST, START, EOS are the host's arguments; START is over when KEY_TILES begins.
PROMPT, LAST, KEY_TILES, EOS, POSITION, TOKENS, CONTEXT, LAYER, VALUE_STEPS, VALUE_BEATS = range(1, 11)
START = KEY_TILES
ROW, ROW_M, ROW_X, T1, T2 = range(11, 16)
# Scalars of the vector unit. An instruction has one immediate; a second constant is in S_ONE or S_CONSTANT.
S_SUM, S_SCALE, S_INVERSE, S_NORM, S_TOTAL, S_MEAN, S_BEST, S_TOKEN = 0, 1, 2, 3, 4, 5, 8, 9
S_ONE, S_CONSTANT, S_EPS = 13, 14, 15

INT_BITS = {4: IntBits.B4, 8: IntBits.B8, 16: IntBits.B16}

#: gelu_tanh(x) = x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)) = x / (1 + 2^(x * (LINEAR + CUBIC x^2))).
GELU_LINEAR = -2 * math.log2(math.e) * math.sqrt(2 / math.pi)
GELU_CUBIC = GELU_LINEAR * 0.044715
#: Abramowitz and Stegun 7.1.26: erf(z) = 1 - (a1 t + ... + a5 t^5) exp(-z^2), t = 1 / (1 + p z), z >= 0, with an
#: error of at most 1.5e-7. With z = |x| / sqrt(2), gelu(x) = max(x, 0) - |x| / 2 * (a1 t + ...) * exp(-x^2 / 2): wrong
#: by at most 0.75e-7 |x|, and with what float32 adds by less than 5e-7 |x|, which is measured, not proven.
#: Here are p / sqrt(2) and a1 / 2 to a5 / 2.
ERF_P = 0.3275911 / math.sqrt(2)
ERF_A = tuple(a / 2 for a in (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))

#: Fields for the last pass of something: the largest magnitude, which quantisation needs, costs no pass of its own.
ABSMAX: dict[str, Any] = {"reduction": Reduction.ABSMAX, "scalar": S_SUM}


@dataclass(frozen=True)
class Vec:
    """A row's vector: its bank, its first word, and the part of the bank, if it is one."""

    bank: SourceA
    at: Operand
    parts: Parts = field(default_factory=dict)

    @property
    def a(self) -> dict[str, Any]:
        """As first operand."""
        return {"a_source": self.bank, "a": self.at}

    @property
    def b(self) -> dict[str, Any]:
        """As second operand."""
        return {"b_source": {SourceA.X: SourceB.X, SourceA.M: SourceB.M}[self.bank], "b": self.at}


def to_x(at: Operand, **more: Any) -> dict[str, Any]:
    """The fields of a result in bank X."""
    return {"destination": Destination.X, "dst": at, **more}


class Blocks:
    """A builder, what it builds for, and the blocks that attention and MLP share."""

    def __init__(self, config: Config, image: Image, places: Places):
        self.config, self.image, self.places = config, image, places
        self.c: ModelConfig = image.c
        self.b = Builder()
        self.lanes = config.vector.lanes
        # With one row there is nothing to loop over, and row registers stay 0.
        self.act_row = T1 if config.array.rows > 1 else 0

    def rows(self, name: str, *, act: bool = False) -> AbstractContextManager[None]:
        """Loop over the tokens of the step; ROW_X and ROW_M lead to the row's words, T1 into the activation buffer."""
        return _Rows(self, name, act)

    # --- DRAM.

    def in_layer(self, name: str, extra: int = 0) -> tuple[int, int]:
        return reg(LAYER, self.image.layer_address + self.image.offsets[name] + extra)

    def load_norm(self, name: str, parts: Parts | None = None) -> None:
        """A layer's norm: its gain, and its bias if it has one."""
        self.b.load(self.in_layer(name), self.places.gamma, self.c.width, parts=parts)
        if self.c.norm == "layer":
            self.b.load(self.in_layer(f"{name}.bias"), self.places.shift, self.c.width, parts={"L": "shift"})

    def load_bias(self, has: bool, name: str, n: int) -> None:
        if has:
            self.b.load(self.in_layer(f"{name}.bias"), self.places.bias, n, parts={"L": "bias"})

    # --- Matmuls.

    def stream(self, name: str) -> None:
        self.b.stream(self.in_layer(name), *self.image.matrices[name].run())

    def matmul(self, matrix: Matrix, *, slot: int, rows: tuple[int, int] | int, tiles: int = 0) -> None:
        self.b.matmul(rows=rows, act=0, tiles=tiles or matrix.tiles, out=0, out_stride=self.places.m_row,
                      slot=slot, **matrix.matmul_fields())

    def quantise(self, x: Vec, *, slot: int, length: object, pad: object = 0, bits: int, row: bool = True,
                 factor: float = 1.0, divide_total: bool = False, act: int = 0, parts: Parts | None = None) -> None:
        """Activations of one row, from word `act` on, out of a vector whose largest magnitude is in S_SUM.

        The row scale is ``absmax / top``, times `factor`, or times scalar S_TOTAL.
        """
        b = self.b
        number = 16 * slot
        parts = x.parts | (parts or {})
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SUM, multiply=Factor.IMMEDIATE,
                 immediate=1.0 / act_max(bits), destination=Destination.SCALAR, dst=S_SCALE)
        if divide_total:
            scaled: dict[str, Any] = {"multiply": Factor.SCALAR, "multiply_scalar": S_TOTAL}
        else:
            scaled = {"multiply": Factor.IMMEDIATE, "immediate": float(factor)}
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, **scaled,
                 destination=Destination.ROW_SCALE, dst=reg(ROW, number) if row else number, parts=parts)
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, function=Function.RECIP,
                 destination=Destination.SCALAR, dst=S_INVERSE)
        b.vector(len=length, pad=pad, **x.a, multiply=Factor.SCALAR,
                 multiply_scalar=S_INVERSE, function=Function.INT, bits=INT_BITS[bits],
                 destination=Destination.ACT, dst=reg(self.act_row, act) if row else act, parts=parts)

    # --- Norms.

    def root_mean_square(self, x: Vec, n: int) -> None:
        """S_NORM = 1 / sqrt(mean(x^2) + eps)."""
        b = self.b
        b.vector(len=n, **x.a, multiply=Factor.B, **x.b, reduction=Reduction.SUM, scalar=S_SUM, parts=x.parts)
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SUM, multiply=Factor.IMMEDIATE,
                 immediate=1.0 / n, addend=Factor.SCALAR, addend_scalar=S_EPS,
                 function=Function.RSQRT, destination=Destination.SCALAR, dst=S_NORM)

    def rms_norm(self, x: Vec, out: Operand, n: int, gain: int, parts: Parts | None = None) -> None:
        """RMSNorm with the gain in bank L; largest magnitude in S_SUM."""
        b = self.b
        self.root_mean_square(x, n)
        b.vector(len=n, **x.a, multiply=Factor.SCALAR, multiply_scalar=S_NORM, **to_x(out), parts=x.parts)
        b.vector(len=n, a=out, multiply=Factor.B, b=gain, b_source=SourceB.L, **to_x(out), **ABSMAX, parts=parts)

    def norm(self, x: Vec, out: Operand) -> None:
        """The model's norm of a residual row, with what `load_norm` brought; largest magnitude in S_SUM."""
        b, n, p = self.b, self.c.width, self.places
        if self.c.norm == "rms":
            self.rms_norm(x, out, n, p.gamma)
            return
        # Variance of what is left when the mean is off: mean(x^2) - mean(x)^2 would cancel.
        b.vector(len=n, **x.a, reduction=Reduction.SUM, scalar=S_MEAN, parts=x.parts)
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_MEAN, multiply=Factor.IMMEDIATE, immediate=1.0 / n,
                 destination=Destination.SCALAR, dst=S_MEAN)
        b.vector(len=n, **x.a, addend=Factor.SCALAR, addend_scalar=S_MEAN, negate_addend=1, **to_x(out), parts=x.parts)
        self.root_mean_square(Vec(SourceA.X, out), n)
        b.vector(len=n, a=out, multiply=Factor.SCALAR, multiply_scalar=S_NORM, **to_x(out))
        b.vector(len=n, a=out, multiply=Factor.B, b=p.gamma, b_source=SourceB.L, **to_x(out))
        b.vector(len=n, a=out, addend=Factor.B, b=p.shift, b_source=SourceB.L, **to_x(out), **ABSMAX,
                 parts={"L": "shift"})

    # --- Biases, residuals and activation functions.

    def add_bias(self, x: Vec, out: Operand, n: int) -> Vec:
        """x plus what `load_bias` brought."""
        self.b.vector(len=n, **x.a, addend=Factor.B, b=self.places.bias, b_source=SourceB.L, **to_x(out),
                      parts=x.parts | {"L": "bias"})
        return Vec(SourceA.X, out)

    def residual(self, *, bias: bool) -> None:
        """The residual plus what a matmul gave: its bias and the norm behind it first."""
        p, n = self.places, self.c.width
        x, y, work = reg(ROW_X, p.x), Vec(SourceA.M, reg(ROW_M, 0)), reg(ROW_X, p.work)
        if bias:
            y = self.add_bias(y, work, n)
        if self.c.post_norms:
            self.rms_norm(y, work, n, p.post_gain, {"L": "post"})
            y = Vec(SourceA.X, work)
        self.b.vector(len=n, a=x, addend=Factor.B, **y.b, **to_x(x))

    def load_post_norm(self, name: str) -> None:
        if self.c.post_norms:
            self.b.load(self.in_layer(name), self.places.post_gain, self.c.width, parts={"L": "post"})

    def load_sub_norm(self, name: str, n: int) -> None:
        if self.c.sub_norms:
            self.b.load(self.in_layer(name), self.places.sub_gain, n, parts={"L": "sub"})

    def constants(self) -> None:
        """Scalars that stay, at the beginning of the program."""
        values = [(S_EPS, self.c.norm_eps)]
        if self.c.activation == "gelu_tanh":
            values.append((S_CONSTANT, GELU_LINEAR))
        if self.c.activation == "gelu":
            values += [(S_ONE, 1.0), (S_CONSTANT, ERF_A[3])]
        for scalar, value in values:
            self.b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=value, destination=Destination.SCALAR,
                          dst=scalar)

    def activate(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        """activation(x) to word `out` of the row in bank X; the last pass has the fields `last` besides."""
        functions: dict[str, Callable[[Vec, int, int, dict[str, Any]], None]] = {
            "silu": self._silu, "gelu": self._gelu, "gelu_tanh": self._gelu_tanh, "relu": self._relu,
            "relu2": self._relu2}
        functions[self.c.activation](x, out, n, last)

    def _silu(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        """x * sigmoid(x), sigmoid(x) = 1 / (1 + 2^(-x / ln 2))"""
        b, y = self.b, reg(ROW_X, out)
        b.vector(len=n, **x.a, multiply=Factor.IMMEDIATE, immediate=-math.log2(math.e), function=Function.EXP2,
                 **to_x(y))
        b.vector(len=n, a=y, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP, **to_x(y))
        b.vector(len=n, a=y, multiply=Factor.B, **x.b, **to_x(y), **last)

    def _gelu_tanh(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        b, y = self.b, reg(ROW_X, out)
        b.vector(len=n, **x.a, multiply=Factor.B, **x.b, **to_x(y))
        b.vector(len=n, a=y, multiply=Factor.IMMEDIATE, immediate=GELU_CUBIC, addend=Factor.SCALAR,
                 addend_scalar=S_CONSTANT, **to_x(y))
        b.vector(len=n, a=y, multiply=Factor.B, **x.b, function=Function.EXP2, **to_x(y))
        b.vector(len=n, a=y, addend=Factor.IMMEDIATE, immediate=1.0, function=Function.RECIP, **to_x(y))
        b.vector(len=n, a=y, multiply=Factor.B, **x.b, **to_x(y), **last)

    def _gelu(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        b, size = self.b, n // self.lanes
        y, t, u = (reg(ROW_X, out + i * size) for i in range(3))
        a1, a2, a3, _, a5 = ERF_A
        b.vector(len=n, **x.a, addend=Factor.B, **x.b, negate_addend=1, join=Join.MAX, **to_x(u))  # |x|
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
        b.vector(len=n, **x.a, addend=Factor.IMMEDIATE, immediate=0.0, join=Join.MAX, **to_x(t))
        b.vector(len=n, a=t, addend=Factor.B, b=y, negate_addend=1, **to_x(y), **last)

    def _relu(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        y = reg(ROW_X, out)
        self.b.vector(len=n, **x.a, addend=Factor.IMMEDIATE, immediate=0.0, join=Join.MAX, **to_x(y), **last)

    def _relu2(self, x: Vec, out: int, n: int, last: dict[str, Any]) -> None:
        y = reg(ROW_X, out)
        self._relu(x, out, n, {})
        self.b.vector(len=n, a=y, multiply=Factor.B, b=y, **to_x(y), **last)


class _Rows:
    """Context manager of `Blocks.rows`."""

    def __init__(self, blocks: Blocks, name: str, act: bool):
        self.blocks, self.act = blocks, act
        self.loop = blocks.b.loop(name, ROW, TOKENS)

    def __enter__(self) -> None:
        b, p = self.blocks.b, self.blocks.places
        if not self.blocks.act_row:
            return
        self.loop.__enter__()
        b.control(Operation.MULI, rd=ROW_M, ra=ROW, value=p.m_row)
        b.control(Operation.MULI, rd=ROW_X, ra=ROW, value=p.x_row)
        if self.act:
            b.control(Operation.SHL, rd=T1, ra=ROW, value=12)

    def __exit__(self, *error: Any) -> None:
        if self.blocks.act_row:
            self.loop.__exit__(*error)
