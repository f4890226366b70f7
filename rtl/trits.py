"""From beats that hold five ternary weights a byte to steps of two-bit codes."""

from math import gcd

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

PER_BYTE = 5


def pack_trits(values: np.ndarray) -> np.ndarray:
    """uint8[ceil(n/5)] of int[n] in -1, 0, 1.

    Five weights are the digits ``value + 1`` of a number to base 3, the first the most significant; a byte is that
    number times 256/243, rounded up, so that three times the byte brings out one digit after the other
    above bit 7 (the packing of llama.cpp's TQ1_0). What is missing at the end counts as 0.
    """
    digits = np.zeros(-(-values.size // PER_BYTE) * PER_BYTE, np.int64)
    digits[: values.size] = values
    number = (digits.reshape(-1, PER_BYTE) + 1) @ (3 ** np.arange(PER_BYTE - 1, -1, -1))
    return ((number * 256 + 242) // 243).astype(np.uint8)


def unpack_trits(raw: np.ndarray) -> np.ndarray:
    """int8[5 * bytes]: the inverse of `pack_trits`, padding included."""
    rest, values = raw.astype(np.int64), []
    for _ in range(PER_BYTE):
        rest = rest * 3
        values.append((rest >> 8) - 1)
        rest &= 255
    return np.stack(values, -1).reshape(-1).astype(np.int8)


def decode_byte(byte: Value) -> Value:
    """Five two-bit codes, two's complement, of a byte."""
    codes, rest = [], byte
    for _ in range(PER_BYTE):
        tripled = (rest + (rest << 1))[:10]
        digit, rest = tripled[8:10], tripled[:8]
        codes.append(Cat(~digit[0], digit == 0))  # digit - 1
    return Cat(codes)


class TritGearbox(wiring.Component):
    """What `Gearbox` is for planes: a beat a cycle, a step a cycle if beats suffice; steps cross beats.

    A beat is 5/8 of its bits in weights; beats and steps are counted in the largest unit that divides both.

    Members
    -------
    start, steps_in : In, a section of so many steps begins (no beat may come in this cycle)
    beats : In(stream), ready while beats of the section are missing
    steps : Out(stream) of `step_codes` two-bit codes
    drained : Out, every beat of the section has been taken
    """

    def __init__(self, *, beat_bits: int, step_codes: int):
        self.beat_bits, self.step_codes = beat_bits, step_codes
        self.beat_units, self.step_units = trit_units(beat_bits, step_codes)
        super().__init__({
            "start": In(1), "total": In(16),
            "beats": In(stream.Signature(beat_bits)),
            "steps": Out(stream.Signature(2 * step_codes)),
            "drained": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        steps, beats = self.steps, self.beats
        per_beat, per_step = self.beat_units, self.step_units
        width = 2 * self.step_codes // per_step  # bits of a unit
        missing, expected = Signal(16 + per_step.bit_length()), Signal(16)  # units to come, steps to go
        decoded, have = Signal(per_beat * width), Signal()
        store, fill = Signal((per_step + per_beat) * width), Signal(range(per_step + per_beat + 1))
        free, emit, insert = Signal(), Signal(), Signal()
        after = Signal.like(fill)
        m.d.comb += [
            free.eq(~steps.valid | steps.ready),
            emit.eq(free & (fill >= per_step) & (expected != 0)),
            after.eq(Mux(emit, fill - per_step, fill)),
            insert.eq(have & (after <= per_step)),
            beats.ready.eq((missing != 0) & (~have | insert) & ~self.start),
            self.drained.eq(missing == 0),
        ]
        with m.If(free):
            m.d.sync += [steps.valid.eq(emit), steps.payload.eq(store)]
        with m.If(insert):
            m.d.sync += have.eq(0)
        with m.If(beats.valid & beats.ready):
            m.d.sync += [
                have.eq(1), decoded.eq(Cat(decode_byte(beats.payload.word_select(i, 8))
                                           for i in range(self.beat_bits // 8))),
                missing.eq(Mux(missing > per_beat, missing - per_beat, 0)),
            ]
        shifted, merged = Signal.like(store), Signal.like(store)
        m.d.comb += [shifted.eq(Mux(emit, store[per_step * width :], store)), merged.eq(shifted)]
        with m.If(emit):
            m.d.sync += expected.eq(expected - 1)
        with m.If(insert):
            with m.Switch(after):
                for i in range(per_step + 1):
                    with m.Case(i):
                        m.d.comb += merged.eq(Cat(shifted[: i * width], decoded))
        m.d.sync += [store.eq(merged), fill.eq(after + Mux(insert, per_beat, 0))]
        with m.If(self.start):
            m.d.sync += [missing.eq(self.total * per_step), expected.eq(self.total), fill.eq(0), have.eq(0)]
        return m


def trit_units(beat_bits: int, step_codes: int) -> tuple[int, int]:
    """Units in a beat and in a step."""
    weights = beat_bits // 8 * PER_BYTE
    unit = gcd(weights, step_codes)
    return weights // unit, step_codes // unit
