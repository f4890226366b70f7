"""`lut` with FP16 table entries (LUT Tensor Core, ISCA 2025, arXiv 2408.06003): four FP16 activations make a table.

Weights are bit planes of +-1, ``weight = sum(plane_p * 2^p)``, so the four weights of a plane select one of 16 signed
sums of the activations, of which 8 are stored and the others are their negatives. The index is folded off line: what
comes is the position in the table and whether to negate. An entry has FP16's 11 bits of significand, rounded to
nearest even, and a wider exponent, so that no sum overflows and none is subnormal. Columns share a table; each adds
an entry, raised by the plane, to its running sum.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import normalise
from wordline.pe.float_sum import (
    FP16_BIAS,
    RunningSum,
    align,
    exact,
    half,
    half_ints,
    round_even,
    shift_right_jam,
    sum_layout,
)
from wordline.pe.lut import folded, half_table

K = 4
ENTRIES = 1 << (K - 1)
_GUARD = 3
_SIGNIFICAND = 11
_WIDE = _SIGNIFICAND + _GUARD + (K - 1).bit_length()  # magnitude of a sum of aligned activations
#: Added to an entry's exponent: a sum may have as many leading zeros as it has bits.
_OFFSET = _WIDE


class Entry(data.Struct):
    """A number ``(-1)^sign * magnitude * 2^exponent`` times a unit; the magnitude's top bit is set, or all is 0."""

    sign: unsigned(1)
    magnitude: unsigned(_SIGNIFICAND)
    exponent: unsigned(6)


class TableFp16(wiring.Component):
    """Makes the table of four FP16 activations: entry i is ``act[3] + sum(+-act[k])``, plus where bit k of i is set.

    Activations are aligned to their largest exponent with three bits more, the last one sticky; sums of those are exact
    and rounded once. Two stages; `done` and `entries` come 2 cycles after `valid` and stay.
    """

    latency = 2

    def __init__(self):
        super().__init__({
            "valid": In(1), "acts": In(data.ArrayLayout(16, K)),
            "done": Out(1), "entries": Out(data.ArrayLayout(Entry, ENTRIES)),
        })

    @staticmethod
    def reference(acts: Sequence[int]) -> list[tuple[int, int]]:
        """(signed magnitude, exponent) of the entries."""
        halves = [half_ints(int(act)) for act in acts]
        top = max(exponent for _, exponent in halves)
        aligned = []
        for significand, exponent in halves:
            size = shift_right_jam(abs(significand) << _GUARD, top - exponent)
            aligned.append(-size if significand < 0 else size)
        entries = []
        for index in range(ENTRIES):
            total = aligned[K - 1] + sum(a if index >> k & 1 else -a for k, a in enumerate(aligned[: K - 1]))
            exponent = top + _OFFSET - (_WIDE - abs(total).bit_length())
            size = round_even(abs(total), abs(total).bit_length() - _SIGNIFICAND)
            if size == 1 << _SIGNIFICAND:
                size, exponent = size >> 1, exponent + 1
            entries.append((-size if total < 0 else size, exponent if total else 0))
        return entries

    def elaborate(self, platform):
        m = Module()
        halves = [half(act) for act in self.acts]
        lanes = [(h.sign, h.significand, h.exponent) for h in halves]
        aligned, top = align(m, lanes, _GUARD, "table")
        held = [Signal(signed(_SIGNIFICAND + _GUARD + 1), name=f"aligned_{k}") for k in range(K)]
        exponent, valid = Signal(5), Signal()
        m.d.sync += [valid.eq(self.valid), self.done.eq(valid)]
        with m.If(self.valid):
            m.d.sync += [exponent.eq(top), *(h.eq(a) for h, a in zip(held, aligned, strict=True))]
        for index, value in enumerate(half_table(held)):
            total = Signal(signed(_WIDE + 1), name=f"total_{index}")
            m.d.comb += total.eq(value)
            size = Signal(_WIDE, name=f"size_{index}")
            m.d.comb += size.eq(Mux(total < 0, -total, total))
            normal, zeros = normalise(m, size, f"normal_{index}")
            drop = _WIDE - _SIGNIFICAND
            kept = normal[drop:]
            up = normal[drop - 1] & (normal[: drop - 1].any() | kept[0])
            rounded = Signal(_SIGNIFICAND + 1, name=f"rounded_{index}")
            over = rounded[-1]
            m.d.comb += rounded.eq(kept + up)
            entry = self.entries[index]
            with m.If(valid):
                m.d.sync += [
                    entry.sign.eq(total < 0),
                    entry.magnitude.eq(Cat(rounded[: _SIGNIFICAND - 1], rounded[_SIGNIFICAND - 1] | over)),
                    entry.exponent.eq(Mux(size == 0, 0, exponent + _OFFSET - zeros + over)),
                ]
        return m


class LutFp16Column(wiring.Component):
    """One column of the tables' users: look-up, negation, running sum; a plane of four weights a cycle.

    Members
    -------
    entries : In, the table, registered where it is made
    valid, step : In, `index` and `negate` (`folded`), the `plane`, and whether it is the `last` of a sum
    done, sum : Out, for one cycle a sum, ``latency`` cycles after its last step

    A weight of W bits takes W cycles for four products.
    """

    latency = 2

    def __init__(self, *, bits: int = 24):
        self.bits = bits
        self.unit = (-FP16_BIAS - _GUARD + (_WIDE - _SIGNIFICAND) - _OFFSET
                     - (bits + 1 - (_SIGNIFICAND + 1)) - RunningSum.bias(bits))
        super().__init__({
            "entries": In(data.ArrayLayout(Entry, ENTRIES)), "valid": In(1),
            "step": In(data.StructLayout({"index": K - 1, "negate": 1, "plane": 3, "last": 1})),
            "done": Out(1), "sum": Out(sum_layout(bits)),
        })

    def value(self, significand: int, exponent: int) -> Fraction:
        """The number that a sum is."""
        return exact(significand, exponent + self.unit)

    def reference(self, steps: Iterable[tuple[Sequence[tuple[int, int]], int, int]]) -> tuple[int, int]:
        """(significand, exponent) of the sum of steps: a table, a plane's four weight bits, and the plane."""
        addends = []
        for table, bits, plane in steps:
            index, negate = folded(bits, K)
            magnitude, exponent = table[index]
            addends.append((-magnitude if negate else magnitude, exponent + plane + RunningSum.bias(self.bits)))
        return RunningSum.reference(addends, self.bits, _SIGNIFICAND + 1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.total = total = RunningSum(bits=self.bits, addend_bits=_SIGNIFICAND + 1)
        entry = Signal(Entry)
        m.d.comb += entry.eq(Array(self.entries[i].as_value() for i in range(ENTRIES))[self.step.index])
        negative = entry.sign ^ self.step.negate
        addend, exponent = Signal(signed(_SIGNIFICAND + 1)), Signal.like(total.exponent)
        m.d.sync += [
            addend.eq(Mux(negative, -entry.magnitude, entry.magnitude)),
            exponent.eq(Mux(entry.magnitude == 0, 0, entry.exponent + self.step.plane + RunningSum.bias(self.bits))),
            total.valid.eq(self.valid), total.last.eq(self.step.last),
        ]
        m.d.comb += [total.addend.eq(addend), total.exponent.eq(exponent), self.done.eq(total.done),
                     self.sum.eq(total.sum)]
        return m
