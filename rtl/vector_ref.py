"""What the vector unit computes, in numpy: the specification of every `VectorInstruction`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wordline.rtl import float_ref as ref
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    SCALARS,
    Destination,
    Factor,
    Function,
    Join,
    Reduction,
    SourceA,
    SourceB,
)

_BITS = (4, 8, 16)
_SIGN = np.uint32(1 << 31)
_FUNCTIONS = {Function.EXP2: ref.exp2, Function.RECIP: ref.recip, Function.RSQRT: ref.rsqrt}


@dataclass
class VectorState:
    """On-chip state that vector instructions read and write, as raw bits.

    Attributes
    ----------
    x, m, l, s : uint32[floats]
        The banks.
    act : int32[rows, act_elements]
    row_scale : uint32[64]
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
        self.row_scale = np.zeros(64, np.uint32)
        self.scalars = np.zeros(SCALARS, np.uint32)


def _segments(bank: np.ndarray, start: int, stride: int, outer: int, length: int) -> np.ndarray:
    """[outer, length] elements; addresses wrap as they do in a memory whose depth is a power of two."""
    if outer == 1 and start + length <= bank.size:
        return bank[start : start + length][None]
    index = start + stride * np.arange(outer)[:, None] + np.arange(length)
    return bank[index & (bank.size - 1)]


def execute(f: dict[str, Any], state: VectorState) -> None:
    """Execute one instruction, given as its fields with operands resolved (`pad`, `a`, ... plain ints)."""
    lanes = state.config.vector.lanes
    length, outer = f["len"], f["outer"] + 1
    words = -(-max(length, f["pad"] & 0xFFFF) // lanes)
    if f["destination"] == Destination.ACT:
        step = state.config.array.lanes // lanes
        words = -(-words // step) * step

    immediate = np.uint32(f["immediate"])
    source = f["a_source"]
    if source == SourceA.X:
        a = _segments(state.x, f["a"] * lanes, f["a_stride"] * lanes, outer, length)
    elif source == SourceA.M:
        a = _segments(state.m, f["a"] * lanes, f["a_stride"] * lanes, outer, length)
    else:
        constant = immediate if source == SourceA.IMMEDIATE else state.scalars[f["a"] % SCALARS]
        a = np.full((outer, length), constant, np.uint32)
    b = None
    if Factor.B in (f["multiply"], f["addend"]):
        bank = {SourceB.X: state.x, SourceB.M: state.m, SourceB.L: state.l}[f["b_source"]]
        b = _segments(bank, f["b"] * lanes, f["b_stride"] * lanes, outer, length)

    def operand(factor: Factor, scalar: int) -> np.ndarray:
        if factor == Factor.B:
            assert b is not None
            return b
        return immediate if factor == Factor.IMMEDIATE else state.scalars[scalar]

    bits = a
    if f["multiply"]:
        second = operand(f["multiply"], f["multiply_scalar"])
        bits = ref.to_bits(ref.mul(ref.from_bits(a), ref.from_bits(second)))
    if f["negate_product"]:
        bits = bits ^ _SIGN
    if f["addend"]:
        c = operand(f["addend"], f["addend_scalar"])
        if f["negate_addend"]:
            c = c ^ _SIGN
        join = ref.maximum if f["join"] == Join.MAX else ref.add
        bits = ref.to_bits(join(ref.from_bits(bits), ref.from_bits(c)))
    if f["function"] == Function.INT:
        bits = ref.float_to_int(ref.from_bits(bits), _BITS[f["bits"]]).view(np.uint32)
    elif f["function"]:
        bits = ref.to_bits(_FUNCTIONS[f["function"]](ref.from_bits(bits)))

    if f["reduction"]:
        _reduce(f, bits, words * lanes, state)
    _write(f, bits, words * lanes, state)


def _reduce(f: dict[str, Any], bits: np.ndarray, segment: int, state: VectorState) -> None:
    lanes, kind, target = state.config.vector.lanes, f["reduction"], f["scalar"]
    if kind == Reduction.SUM:
        padded = np.zeros((bits.shape[0], segment), np.uint32)
        padded[:, : bits.shape[1]] = bits
        state.scalars[target] = ref.to_bits(ref.row_sum(ref.from_bits(padded.ravel())))
        return
    values = ref.flush(ref.from_bits(bits))
    if kind == Reduction.ABSMAX:
        values = np.abs(values)
    keys = np.where(np.isnan(values), np.iinfo(np.int64).min, ref.order_key(values)).ravel()
    start = np.uint32(0 if kind == Reduction.ABSMAX else 0xFF800000)
    best = state.scalars[target] if f["keep"] else start
    place = state.scalars[(target + 1) % SCALARS] if f["keep"] else np.uint32(0)
    if keys.size:
        i = int(np.argmax(keys))
        if keys[i] > ref.order_key(ref.from_bits(best)):
            best = ref.to_bits(values.ravel()[i])
            row, column = divmod(i, bits.shape[1])
            place = np.uint32(f["b"] * lanes + row * segment + column)
    state.scalars[target] = best
    if kind == Reduction.ARGMAX:
        state.scalars[(target + 1) % SCALARS] = place


def _write(f: dict[str, Any], bits: np.ndarray, segment: int, state: VectorState) -> None:
    destination, lanes = f["destination"], state.config.vector.lanes
    if destination == Destination.NONE or segment == 0:
        return
    if destination in (Destination.SCALAR, Destination.ROW_SCALE):
        first = bits[0, 0] if bits.size else np.uint32(0)
        if destination == Destination.SCALAR:
            state.scalars[f["dst"] % SCALARS] = first
        else:
            state.row_scale[f["dst"] % 64] = first
        return
    out = np.zeros((bits.shape[0], segment), np.uint32)
    out[:, : bits.shape[1]] = bits
    if destination == Destination.ACT:
        act_bits = state.config.array.act_bits
        bank = state.act[(f["dst"] >> 12) % len(state.act)]
        shift = 32 - act_bits
        out = (out.view(np.int32) << shift) >> shift
        start, stride = (f["dst"] & 0xFFF) * lanes, f["dst_stride"] * lanes
    else:
        bank = state.x if destination == Destination.X else state.s
        start, stride = f["dst"] * lanes, f["dst_stride"] * lanes
    if out.shape[0] == 1 and start + segment <= bank.size:
        bank[start : start + segment] = out[0]
    else:
        index = start + stride * np.arange(out.shape[0])[:, None] + np.arange(segment)
        for row, values in zip(index & (bank.size - 1), out, strict=True):
            bank[row] = values
