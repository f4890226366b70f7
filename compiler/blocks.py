"""What every part of a transformer is made of: rows, norms, biases, residuals, quantisation.

One line is one pass of the vector unit over a row. The order of the float32 operations is part of the result; it is
repeated in `wordline.sim.hardware_model`.
"""

from contextlib import AbstractContextManager
from typing import Any

from wordline.compiler import activations
from wordline.compiler.architecture import ModelConfig
from wordline.compiler.builder import Builder, Operand, Parts, reg
from wordline.compiler.image import Image
from wordline.compiler.operands import (
    ABSMAX,
    CONTEXT,
    INT_BITS,
    LAYER,
    POSITION,
    ROW,
    ROW_M,
    ROW_X,
    S_EPS,
    S_INVERSE,
    S_MEAN,
    S_NORM,
    S_SCALE,
    S_SUM,
    S_TOTAL,
    T1,
    TOKENS,
    Vec,
    to_x,
)
from wordline.compiler.places import Places
from wordline.compiler.weights import Matrix
from wordline.pe.datatypes import act_max
from wordline.rtl.config import Config
from wordline.rtl.isa import Destination, Factor, Function, Operation, Reduction, SourceA, SourceB


class Blocks:
    """A builder, what it builds for, and the blocks that attention and MLP share."""

    def __init__(self, config: Config, image: Image, places: Places):
        self.config, self.image, self.places, self.batch = config, image, places, image.batch
        self.c: ModelConfig = image.c
        self.b = Builder()
        self.lanes = config.vector.lanes
        self.looped = config.array.rows > 1  # the code being written loops over the rows of a step

    @property
    def act_row(self) -> int:
        """The register with a row's place in the activation buffer."""
        return T1 if self.looped else 0

    def rows(self, name: str, *, act: bool = False) -> AbstractContextManager[None]:
        """Loop over the rows of the step; ROW_X and ROW_M lead to the row's words, T1 into the activation buffer."""
        return _Rows(self, name, act)

    def position(self, rd: int) -> None:
        """rd = position of the row's token: rows are tokens of one sequence, or one token each of a batch."""
        self.b.control(Operation.ADD, rd=rd, ra=POSITION, rb=0 if self.batch > 1 else ROW)

    def whole_context(self) -> None:
        """CONTEXT = positions up to this step's last."""
        if self.batch > 1:
            self.b.set(CONTEXT, 1, POSITION)
        else:
            self.b.control(Operation.ADD, rd=CONTEXT, ra=POSITION, rb=TOKENS)

    def rope_words(self, rd: int) -> None:
        """rd = words from the first row of the RoPE table on the chip to the row's."""
        self.b.control(Operation.MULI, rd=rd, ra=0 if self.batch > 1 else ROW, value=self.places.rope_row)

    # --- DRAM.

    def in_layer(self, name: str, extra: int = 0, register: int = LAYER) -> tuple[int, int]:
        return reg(register, self.image.layer_address + self.image.offsets[name] + extra)

    def load_norm(self, name: str, layer: int = LAYER) -> None:
        """The norm of the layer that a register leads to: its gain, and its bias if it has one."""
        self.b.load(self.in_layer(name, register=layer), self.places.gamma, self.c.width, parts={"L": "gamma"})
        if self.c.norm == "layer":
            self.b.load(self.in_layer(f"{name}.bias", register=layer), self.places.shift, self.c.width,
                        parts={"L": "shift"})

    def load_bias(self, has: bool, name: str, n: int) -> None:
        if has:
            self.b.load(self.in_layer(f"{name}.bias"), self.places.bias, n, parts={"L": "bias"})

    def scalar(self, rd: int, a: int, **fields: Any) -> None:
        """Scalar `rd` = a function of scalar `a`."""
        self.b.vector(len=1, a_source=SourceA.SCALAR, a=a, destination=Destination.SCALAR, dst=rd, **fields)

    # --- Matmuls.

    def stream(self, name: str) -> None:
        self.b.part = name
        self.b.stream(self.in_layer(name), *self.image.matrices[name].run())

    @property
    def first(self) -> str:
        """A layer's first matrix."""
        return next(iter(self.image.matrices))

    def stream_first(self, layer: int = LAYER, enable: int = 0) -> None:
        """The weights of a layer's first matrix. Keys' and values' come before queries', so that the cache is written
        while the queries' come. Only if the register `enable` is -1, or always."""
        self.b.part = self.first
        matrix = self.image.matrices[self.first]
        for first, tiles in self.qkv_parts().values() if self.first == "qkv" else [(0, matrix.tiles)]:
            runs: Operand = tiles
            if enable:
                self.b.control(Operation.ANDI, rd=T1, ra=enable, value=tiles)
                runs = reg(T1)
            _, beats, stride = matrix.run()
            self.b.stream(self.in_layer(self.first, first * matrix.layout.tile_bytes, layer), runs, beats, stride)

    def qkv_parts(self) -> dict[str, tuple[int, int]]:
        """First tile and tiles of each matmul of the projection, by the part of bank M that it writes; one for all if
        the queries end within a tile."""
        tiles, cols = self.image.matrices["qkv"].tiles, self.config.array.cols
        if self.c.attention % cols:
            return {"": (0, tiles)}
        queries = self.c.attention // cols
        return {"kv": (queries, tiles - queries), "q": (0, queries)}

    def matmul_qkv(self) -> None:
        cols, matrix = self.config.array.cols, self.image.matrices["qkv"]
        for part, (first, tiles) in self.qkv_parts().items():
            self.matmul(matrix, slot=0, rows=reg(TOKENS), tiles=tiles, out=first * cols // self.lanes,
                        parts={"M": part} if part else {})

    def matmul(self, matrix: Matrix, *, slot: int, rows: tuple[int, int] | int, tiles: int = 0, out: int = 0,
               act: int = 0, parts: Parts | None = None) -> None:
        """A matmul with activations from word `act` of the activation buffer on."""
        self.b.matmul(rows=rows, act=act * self.lanes // self.config.array.lanes, tiles=tiles or matrix.tiles, out=out,
                      out_stride=self.places.m_row, slot=slot, parts=parts, **matrix.matmul_fields())

    def quantise(self, x: Vec, *, slot: int, length: object, pad: object = 0, bits: int, row: bool = True,
                 factor: float = 1.0, divide_total: bool = False, act: int = 0, array_row: int = 0,
                 parts: Parts | None = None) -> None:
        """Activations of one row, from word `act` on, out of a vector whose largest magnitude is in S_SUM. They go
        to row `array_row` of the array, or of those that follow to the row of their token.

        The row scale is ``absmax / top``, times `factor`, or times scalar S_TOTAL.
        """
        b = self.b
        act += array_row << 12
        parts = x.parts | (parts or {})
        self.row_scale(slot=slot, bits=bits, row=row, factor=factor, divide_total=divide_total, array_row=array_row,
                       parts=parts)
        b.vector(len=length, pad=pad, **x.a, multiply=Factor.SCALAR,
                 multiply_scalar=S_INVERSE, function=Function.INT, bits=INT_BITS[bits],
                 destination=Destination.ACT, dst=reg(self.act_row, act) if row else act, parts=parts)

    def row_scale(self, *, slot: int, bits: int, row: bool = True, factor: float = 1.0, divide_total: bool = False,
                  array_row: int = 0, parts: Parts | None = None) -> None:
        """The row scale of `quantise`; S_INVERSE is what the activations are to be multiplied with."""
        b, number = self.b, 16 * slot + array_row
        self.scalar(S_SCALE, S_SUM, multiply=Factor.IMMEDIATE, immediate=1.0 / act_max(bits))
        if divide_total:
            scaled: dict[str, Any] = {"multiply": Factor.SCALAR, "multiply_scalar": S_TOTAL}
        else:
            scaled = {"multiply": Factor.IMMEDIATE, "immediate": float(factor)}
        b.vector(len=1, a_source=SourceA.SCALAR, a=S_SCALE, **scaled,
                 destination=Destination.ROW_SCALE, parts=parts,
                 dst=reg(ROW, number) if row and self.looped else number)
        self.scalar(S_INVERSE, S_SCALE, function=Function.RECIP)

    # --- Norms.

    def root_mean_square(self, x: Vec, n: int) -> None:
        """S_NORM = 1 / sqrt(mean(x^2) + eps)."""
        b = self.b
        b.vector(len=n, **x.a, multiply=Factor.B, **x.b, reduction=Reduction.SUM, scalar=S_SUM, parts=x.parts)
        self.scalar(S_NORM, S_SUM, multiply=Factor.IMMEDIATE, immediate=1.0 / n, addend=Factor.SCALAR,
                    addend_scalar=S_EPS, function=Function.RSQRT)

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
        self.scalar(S_MEAN, S_MEAN, multiply=Factor.IMMEDIATE, immediate=1.0 / n)
        b.vector(len=n, **x.a, addend=Factor.SCALAR, addend_scalar=S_MEAN, negate_addend=1, **to_x(out), parts=x.parts)
        self.root_mean_square(Vec(SourceA.X, out), n)
        b.vector(len=n, a=out, multiply=Factor.SCALAR, multiply_scalar=S_NORM, **to_x(out))
        b.vector(len=n, a=out, multiply=Factor.B, b=p.gamma, b_source=SourceB.L, **to_x(out))
        b.vector(len=n, a=out, addend=Factor.B, b=p.shift, b_source=SourceB.L, **to_x(out), **ABSMAX,
                 parts={"L": "shift"})

    # --- Biases and residuals.

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

    def load_gain(self, name: str, place: int, n: int) -> None:
        """A vector of the layer into one of the two places for gains."""
        self.b.load(self.in_layer(name), self.places.gains[place], n, parts={"L": f"gain{place}"})

    def linear_norm(self, x: Vec, place: int) -> None:
        """The norm that a linear layer has of its own, in place, with the gain that `load_gain` brought; largest
        magnitude in S_SUM."""
        if self.c.linear_norms:
            self.rms_norm(x, x.at, self.c.width, self.places.gains[place], {"L": f"gain{place}"})

    def constants(self) -> None:
        """Scalars that stay, at the beginning of the program."""
        for scalar, value in [(S_EPS, self.c.norm_eps), *activations.constants(self.c.activation)]:
            self.b.vector(len=1, a_source=SourceA.IMMEDIATE, immediate=value, destination=Destination.SCALAR,
                          dst=scalar)

class _Rows:
    """Context manager of `Blocks.rows`."""

    def __init__(self, blocks: Blocks, name: str, act: bool):
        self.blocks, self.act = blocks, act
        self.loop = blocks.b.loop(name, ROW, TOKENS)

    def __enter__(self) -> None:
        b, p = self.blocks.b, self.blocks.places
        if not self.blocks.looped:
            return
        self.loop.__enter__()
        b.control(Operation.MULI, rd=ROW_M, ra=ROW, value=p.m_row)
        b.control(Operation.MULI, rd=ROW_X, ra=ROW, value=p.x_row)
        if self.act:
            b.control(Operation.SHL, rd=T1, ra=ROW, value=12)

    def __exit__(self, *error: Any) -> None:
        if self.blocks.looped:
            self.loop.__exit__(*error)
