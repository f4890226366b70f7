"""What the vector unit computes, in numpy: the specification of every `VectorInstruction`.

Where `rtl.isa` leaves a choice, this file makes it, and the hardware follows:

* a negation flips the sign bit, of a NaN too;
* an element's place in a SUM is ``segment * words * lanes + position``, so padding takes up places but adds
  nothing;
* +0 is larger than -0;
* where destination and reduction are the same scalar register, the reduction is what stays;
* SUM ignores `keep`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Self

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

from wordline.rtl import float_fast as fast
from wordline.rtl import float_ref as ref
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    ROW_SCALES,
    SCALARS,
    Destination,
    Factor,
    Function,
    IntBits,
    Join,
    Long,
    Reduction,
    Short,
    SourceA,
    SourceB,
    VectorInstruction,
)

_BITS = {bits: int(bits.name[1:]) for bits in IntBits}
_SIGN = np.uint32(1 << 31)
_MINUS_INFINITY = 0xFF800000


@dataclass(frozen=True, kw_only=True)
class VectorFields:
    """A `VectorInstruction` taken apart, with its operands resolved to plain numbers."""

    pad: int = 0
    a: int = 0
    b: int = 0
    dst: int = 0
    len: int = 0
    a_source: int = SourceA.X
    b_source: int = SourceB.X
    multiply: int = Factor.NONE
    multiply_scalar: int = 0
    addend: int = Factor.NONE
    addend_scalar: int = 0
    join: int = Join.ADD
    negate_product: int = 0
    negate_addend: int = 0
    function: int = Function.NONE
    bits: int = IntBits.B4
    destination: int = Destination.NONE
    reduction: int = Reduction.NONE
    scalar: int = 0
    keep: int = 0
    outer: int = 0
    a_stride: int = 0
    b_stride: int = 0
    dst_stride: int = 0
    immediate: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a mapping that may hold more (unit, semaphores), as `compiler.asm.fields` gives."""
        self = object.__new__(cls)  # a frozen class's own way takes longer than many an instruction
        self.__dict__.update({name: values[name] for name in _NAMES if name in values})
        return self


_NAMES = tuple(f.name for f in fields(VectorFields))
_PLACES = {
    name: (part.offset, {Long: 40, Short: 16}.get(part.shape, Shape.cast(part.shape).width))
    for name, part in data.Layout.cast(VectorInstruction) if name in _NAMES
}


@lru_cache(maxsize=1 << 14)
def decode(word: int) -> VectorFields:
    """The fields of a 256-bit instruction whose immediates hold the operands' final values."""
    return VectorFields(**{
        name: word >> offset & (1 << width) - 1 for name, (offset, width) in _PLACES.items()})


@dataclass
class VectorState:
    """On-chip state that vector instructions read and write, as raw bits.

    Attributes
    ----------
    x, m, l, s : uint32[floats]
        The banks.
    act : int32[rows, act_elements]
    row_scale : uint32[ROW_SCALES]
    scalars : uint32[16]
    """

    config: Config
    x: np.ndarray = field(init=False)
    m: np.ndarray = field(init=False)
    l: np.ndarray = field(init=False)  # noqa: E741
    s: np.ndarray = field(init=False)
    act: np.ndarray = field(init=False)
    row_scale: np.ndarray = field(init=False)
    scalars: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        memory = self.config.memory
        self.x = np.zeros(memory.vector_floats, np.uint32)
        self.m = np.zeros(memory.matmul_floats, np.uint32)
        self.l = np.zeros(memory.load_floats, np.uint32)
        self.s = np.zeros(memory.store_floats, np.uint32)
        self.act = np.zeros((self.config.array.rows, memory.act_elements), np.int32)
        self.row_scale = np.zeros(ROW_SCALES, np.uint32)
        self.scalars = np.zeros(SCALARS, np.uint32)


def segment_words(config: Config, f: VectorFields) -> int:
    """Words in each segment of an instruction."""
    lanes = config.vector.lanes
    words = -(-max(f.len, f.pad & 0xFFFF) // lanes)
    if f.destination == Destination.ACT:
        step = config.array.lanes // lanes
        words = -(-words // step) * step
    return words


def segments(f: VectorFields) -> int:
    """Segments of an instruction."""
    return f.outer + (f.pad >> 16 & 0xFF) + 1


def execute(instruction: VectorFields | Mapping[str, Any], state: VectorState) -> None:
    """Execute one instruction with its operands resolved.

    Raises
    ------
    ValueError
        A scalar or row scale as the destination of more than one word: a mistake of the compiler.
    IndexError
        A row of the activation buffer that does not exist.
    """
    f = instruction if isinstance(instruction, VectorFields) else VectorFields.of(instruction)
    segment = segment_words(state.config, f) * state.config.vector.lanes
    with np.errstate(all="ignore"):
        bits = _compute(f, state)
        reduced = _reduce(f, bits, segment, state) if f.reduction else []
    _write(f, bits, segment, state)
    for number, value in reduced:
        state.scalars[number % SCALARS] = value


def _compute(f: VectorFields, state: VectorState) -> np.ndarray:
    """uint32[outer + 1, len]: the results as raw bits."""
    lanes, outer = state.config.vector.lanes, segments(f)
    if f.a_source == SourceA.X or f.a_source == SourceA.M:
        bank = state.x if f.a_source == SourceA.X else state.m
        bits = _segments(bank, f.a * lanes, f.a_stride * lanes, outer, f.len)
    else:
        bits = np.empty((outer, f.len), np.uint32)
        bits.fill(f.immediate if f.a_source == SourceA.IMMEDIATE else state.scalars[f.a % SCALARS])

    def operand(factor: int, scalar: int) -> np.ndarray:
        if factor == Factor.B:
            bank = (state.x, state.m, state.l)[f.b_source]
            return _segments(bank, f.b * lanes, f.b_stride * lanes, outer, f.len)
        if factor == Factor.IMMEDIATE:
            return np.array([f.immediate], np.uint32)
        return state.scalars[scalar : scalar + 1]

    if f.multiply:
        factor = operand(f.multiply, f.multiply_scalar)
        bits = fast.mul(bits.view(np.float32), factor.view(np.float32)).view(np.uint32)
    if f.negate_product:
        bits = bits ^ _SIGN
    if f.addend:
        c = operand(f.addend, f.addend_scalar)
        if f.negate_addend:
            c = c ^ _SIGN
        join = ref.maximum if f.join == Join.MAX else fast.add
        bits = join(bits.view(np.float32), c.view(np.float32)).view(np.uint32)
    if f.function == Function.INT:
        bits = fast.to_int(bits.view(np.float32), _BITS[f.bits]).view(np.uint32)
    elif f.function:
        bits = fast.SPECIAL[f.function](bits.view(np.float32)).view(np.uint32)
    return bits


def _segments(bank: np.ndarray, start: int, stride: int, outer: int, length: int) -> np.ndarray:
    """[outer, length] elements; addresses wrap as they do in a memory whose depth is a power of two."""
    if outer == 1 and start + length <= bank.size:
        return bank[start : start + length][None]
    return bank[_wrapped(bank, start, stride, outer, length)]


def _wrapped(bank: np.ndarray, start: int, stride: int, outer: int, length: int) -> np.ndarray:
    index = start + stride * np.arange(outer)[:, None] + np.arange(length)
    return index & (bank.size - 1)


def _reduce(f: VectorFields, bits: np.ndarray, segment: int, state: VectorState) -> list[tuple[int, int]]:
    """What goes into which scalar registers."""
    if f.reduction == Reduction.SUM:
        x = bits.view(np.float32)
        if len(x) > 1 and segment != f.len:
            x = np.pad(x, ((0, 0), (0, segment - f.len)), constant_values=np.float32(-0.0))
        return [(f.scalar, int(ref.to_bits(fast.row_sum(x.reshape(-1)))))]

    start = 0 if f.reduction == Reduction.ABSMAX else _MINUS_INFINITY
    best = int(state.scalars[f.scalar]) if f.keep else start
    place = int(state.scalars[(f.scalar + 1) % SCALARS]) if f.keep else 0
    if bits.size:
        i, largest = _largest(bits.reshape(-1), absolute=f.reduction == Reduction.ABSMAX)
        if i >= 0 and _order(largest) > _order(best):
            best = largest
            row, column = divmod(i, f.len)
            place = f.b * state.config.vector.lanes + row * segment + column
    if f.reduction == Reduction.ARGMAX:
        return [(f.scalar, best), (f.scalar + 1, place)]
    return [(f.scalar, best)]


def _largest(bits: np.ndarray, *, absolute: bool) -> tuple[int, int]:
    """Index and bits of the first largest element, subnormals counting as zero; -1 if all are NaN."""
    values = bits.view(np.float32)
    if absolute:
        values = np.abs(values)
    i = int(values.argmax())
    if abs(float(values[i])) >= 2.0**-126:  # neither NaN, nor a zero, nor subnormal
        return i, int(values.view(np.uint32)[i])
    values = ref.flush(values)
    keys = np.where(np.isnan(values), -(1 << 40), ref.order_key(values))
    i = int(keys.argmax())
    return (-1 if np.isnan(values[i]) else i), int(ref.to_bits(values)[i])


def _order(bits: int) -> int:
    """A number that compares as the floats do, with -0 below +0."""
    return 0x7FFFFFFF - bits if bits >> 31 else bits


def _write(f: VectorFields, bits: np.ndarray, segment: int, state: VectorState) -> None:
    lanes, outer = state.config.vector.lanes, segments(f)
    if f.destination == Destination.NONE or segment == 0:
        return
    if f.destination in (Destination.SCALAR, Destination.ROW_SCALE):
        if segment * outer > lanes:
            raise ValueError(f"a scalar or row scale takes one word, not {segment * outer // lanes}")
        first = bits[0, 0] if bits.size else 0
        if f.destination == Destination.SCALAR:
            state.scalars[f.dst % SCALARS] = first
        else:
            state.row_scale[f.dst % ROW_SCALES] = first
        return

    start = f.dst
    if f.destination == Destination.ACT:
        shift = 32 - state.config.array.act_bits
        bits = bits.view(np.int32) << shift >> shift
        bank, start = state.act[f.dst >> 12], f.dst & 0xFFF
    else:
        bank = state.x if f.destination == Destination.X else state.s
    start *= lanes
    if outer == 1 and start + segment <= bank.size:
        bank[start : start + f.len] = bits[0]
        bank[start + f.len : start + segment] = 0
        return
    out = np.zeros((outer, segment), bits.dtype)
    out[:, : f.len] = bits
    # One after the other, since segments may overlap and the last one wins.
    for row, values in zip(_wrapped(bank, start, f.dst_stride * lanes, outer, segment), out, strict=True):
        bank[row] = values
