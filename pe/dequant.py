"""Group dequantisation: the 8-bit scale, and the zero point, of a weight group.

BitMoD multiplies the group's dot product by its scale bit by bit, behind the PE, while the
next group is being computed (HPCA 2025, Section IV-B): as long as a group takes at least as many cycles
as the scale takes, the array never waits.
"""

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.datatypes import scale_values

#: Bits of the shift and of the value of a scale that is a small float.
SHIFT_BITS, FLOAT_SCALE_BITS = 4, 18


def bits_per_cycle(min_group_cycles: int) -> int:
    """Fewest scale bits per cycle that keep up with a group every `min_group_cycles` cycles."""
    return next(b for b in (1, 2, 4, 8) if 8 // b <= max(1, min_group_cycles))


def _check_rate(rate: int) -> None:
    if rate not in (1, 2, 4, 8):
        raise ValueError(f"rate must be 1, 2, 4 or 8 bits per cycle, not {rate}")


def dequant_latency(rate: int, asymmetric: bool, floating: bool) -> int:
    """Cycles from a group's dot products to their value in `GroupDequant`."""
    return (8 // rate + 1) + (8 // rate + 2 if asymmetric else 0) + floating


def corrected_bits(dot_bits: int, sum_bits: int, asymmetric: bool) -> int:
    """Width of a group's dot product behind the zero point."""
    return max(dot_bits, sum_bits + 8) + 1 if asymmetric else dot_bits


class SerialMultiplier(wiring.Component):
    """``product = operand[r] * factor`` for `rows` operands, `rate` bits of the 8-bit factor per cycle.

    Takes a new factor every ``8 // rate`` cycles; latency ``8 // rate + 1``. With `rate` 8 it is a multiplier,
    below that shifts and additions. `tag` travels along.
    """

    def __init__(self, *, rows: int, bits: int, rate: int, signed_factor: bool, tag_bits: int):
        _check_rate(rate)
        self.rows, self.bits, self.rate, self.signed_factor = rows, bits, rate, signed_factor
        self.latency = 8 // rate + 1
        super().__init__({
            "start": In(1),
            "operand": In(data.ArrayLayout(signed(bits), rows)),
            "factor": In(8),
            "tag": In(tag_bits),
            "done": Out(1),
            "product": Out(data.ArrayLayout(signed(bits + 8), rows)),
            "tag_out": Out(tag_bits),
        })

    def elaborate(self, platform):
        m = Module()
        rate, cycles = self.rate, 8 // self.rate
        operand = Signal.like(self.operand)
        factor, tag = Signal(8), Signal.like(self.tag)
        left, place = Signal(range(cycles + 1)), Signal(range(cycles))
        m.d.sync += self.done.eq(left == 1)
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), factor.eq(factor >> rate), place.eq(place + 1)]
        with m.If(left == 1):
            m.d.sync += self.tag_out.eq(tag)
        with m.If(self.start):
            m.d.sync += [operand.eq(self.operand), factor.eq(self.factor), tag.eq(self.tag),
                         left.eq(cycles), place.eq(0)]
        for r in range(self.rows):
            acc = Signal(signed(self.bits + 8), name=f"acc_{r}")
            part = Signal(signed(self.bits + rate + 1), name=f"part_{r}")
            if rate == 8:
                bits = factor.as_signed() if self.signed_factor else factor
                m.d.comb += part.eq(operand[r] * bits)
            else:
                # The top bit of a signed factor, the last to come, counts negative.
                terms = [Mux(factor[i], operand[r] << i, 0) for i in range(rate)]
                if self.signed_factor:
                    top = operand[r] << (rate - 1)
                    terms[-1] = Mux(factor[rate - 1], Mux(left == 1, -top, top), 0)
                m.d.comb += part.eq(sum(terms[1:], terms[0]))
            total = Signal(signed(self.bits + 8), name=f"total_{r}")
            shifted = Signal(signed(self.bits + 8), name=f"shifted_{r}")
            with m.Switch(place):
                for i in range(cycles):
                    with m.Case(i):
                        m.d.comb += shifted.eq(part << (i * rate))
            m.d.comb += total.eq(Mux(place == 0, 0, acc) + shifted)
            with m.If(left != 0):
                m.d.sync += acc.eq(total)
            with m.If(left == 1):
                m.d.sync += self.product[r].eq(total)
        return m


class GroupDequant(wiring.Component):
    """``value[r] = scale * (dot[r] - zero * xsum[r])``, exact.

    Parameters
    ----------
    rows, dot_bits, sum_bits : int
        Rows of the column, widths of the dot products and of the activation sums.
    rate : int
        Bits of scale (and of zero point) taken per cycle: 8, 4, 2 or 1. A group may start every
        ``8 // rate`` cycles.
    asymmetric : bool
        False leaves the zero point out.
    floating : bool
        The scale may be a small float (`datatypes.scale_values`): its mantissa is the factor, and the product is
        shifted by its exponent.

    Latency ``8 // rate + 1``, ``8 // rate + 2`` more for the zero point, and one more for small floats.
    """

    def __init__(self, *, rows: int, dot_bits: int, sum_bits: int, rate: int, asymmetric: bool,
                 floating: bool = False, tag_bits: int = 2):
        _check_rate(rate)
        self.rows, self.rate, self.asymmetric, self.floating = rows, rate, asymmetric, floating
        self.dot_bits = dot_bits
        self.sum_bits, self.tag_bits = sum_bits, tag_bits
        self.corrected_bits = corrected_bits(dot_bits, sum_bits, asymmetric)
        self.value_bits = self.corrected_bits + (FLOAT_SCALE_BITS if floating else 8)
        self.latency = dequant_latency(rate, asymmetric, floating)
        super().__init__({
            "start": In(1),
            "dot": In(data.ArrayLayout(signed(dot_bits), rows)),
            "xsum": In(data.ArrayLayout(signed(sum_bits), rows)),
            "scale": In(8),
            "zero": In(signed(8)),
            "float_scale": In(1),
            "tag": In(tag_bits),
            "done": Out(1),
            "value": Out(data.ArrayLayout(signed(self.value_bits), rows)),
            "tag_out": Out(tag_bits),
        })

    @staticmethod
    def reference(dot: np.ndarray, xsum: np.ndarray, scale: int, zero: int, floating: bool = False) -> np.ndarray:
        factor = scale_values(np.array(scale), floating)
        return factor * (np.asarray(dot, np.int64) - int(zero) * np.asarray(xsum, np.int64))

    def elaborate(self, platform):
        m = Module()
        # What travels with a group: its tag, and how far its product is to be shifted.
        about = data.StructLayout({"tag": self.tag_bits, "shift": SHIFT_BITS if self.floating else 0})
        tag, factor = Signal(about), Signal(8)
        m.d.comb += [tag.tag.eq(self.tag), factor.eq(self.scale)]
        if self.floating:
            exponent = self.scale[3:7]
            with m.If(self.float_scale):
                m.d.comb += [factor.eq(Cat(self.scale[:3], exponent != 0)),
                             tag.shift.eq(Mux(exponent == 0, 0, exponent - 1))]
        m.submodules.scaler = scaler = SerialMultiplier(
            rows=self.rows, bits=self.corrected_bits, rate=self.rate, signed_factor=False,
            tag_bits=about.size)
        done = Signal(about)
        m.d.comb += done.eq(scaler.tag_out)
        if self.floating:
            m.d.sync += [self.done.eq(scaler.done), self.tag_out.eq(done.tag)]
            m.d.sync += [self.value[r].eq(scaler.product[r] << done.shift) for r in range(self.rows)]
        else:
            m.d.comb += [self.done.eq(scaler.done), self.value.eq(scaler.product), self.tag_out.eq(done.tag)]
        if not self.asymmetric:
            m.d.comb += [scaler.start.eq(self.start), scaler.operand.eq(self.dot),
                         scaler.factor.eq(factor), scaler.tag.eq(tag)]
            return m
        width = about.size + 8 + self.rows * self.dot_bits
        m.submodules.corrector = corrector = SerialMultiplier(
            rows=self.rows, bits=self.sum_bits, rate=self.rate, signed_factor=True, tag_bits=width)
        passed = data.StructLayout({"tag": about.size, "factor": 8,
                                    "dot": data.ArrayLayout(signed(self.dot_bits), self.rows)})
        into, out = Signal(passed), Signal(passed)
        m.d.comb += [
            into.tag.eq(tag), into.factor.eq(factor), into.dot.eq(self.dot),
            corrector.start.eq(self.start), corrector.operand.eq(self.xsum),
            corrector.factor.eq(self.zero), corrector.tag.eq(into),
            out.eq(corrector.tag_out),
        ]
        start, corrected = Signal(), Signal(data.ArrayLayout(signed(self.corrected_bits), self.rows))
        late_factor, late_tag = Signal(8), Signal(about.size)
        m.d.sync += [start.eq(corrector.done), late_factor.eq(out.factor), late_tag.eq(out.tag)]
        m.d.sync += [corrected[r].eq(out.dot[r] - corrector.product[r]) for r in range(self.rows)]
        m.d.comb += [scaler.start.eq(start), scaler.operand.eq(corrected), scaler.factor.eq(late_factor),
                     scaler.tag.eq(late_tag)]
        return m
