"""`bit_serial`: BitMoD's processing element, which takes a weight as a series of signed powers of two.

A weight is the sum of terms ``(-1)^sign * 2^exp * man * 2^significance`` (HPCA 2025, arXiv 2411.11745,
Eq. 4), one term per lane and cycle, so that a step takes as many cycles as its datatype has terms:
4 at INT8 and INT7, 3 at INT6 and INT5, 2 at FP4 and FP3. The paper's PE has FP16 activations; this one has
integers, so the alignment of exponents falls away and the dot product is exact.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data

from wordline.pe.datatypes import (
    FP3_MAGNITUDES,
    FP3_SPECIAL,
    FP4_MAGNITUDES,
    FP4_SPECIAL,
    INT_BITS,
    KIND_BITS,
    PLANES,
    WeightKind,
)
from wordline.pe.family import adder_tree, tree_levels
from wordline.pe.pipeline import PipelinedColumn, Step, register

#: Terms of a code: radix-4 Booth digits of an integer, set bits of a BitMoD float, planes.
TERMS = {kind: (bits + 1) // 2 for kind, bits in INT_BITS.items()} | {
    WeightKind.INT1: 1, WeightKind.TERNARY: 1, WeightKind.FP4: 2, WeightKind.FP3: 2} | PLANES

FLOATS = {WeightKind.FP4: (FP4_MAGNITUDES, FP4_SPECIAL), WeightKind.FP3: (FP3_MAGNITUDES, FP3_SPECIAL)}


class Term(data.Struct):
    """One signed power of two; the term is zero where `man` is."""

    sign: unsigned(1)
    exp: unsigned(2)
    man: unsigned(1)


def encode_term(m: Module, code: Value, kind: Value, select: Value, index: Value,
                kinds: frozenset[WeightKind], name: str) -> Any:
    """Term number `index` of a code, combinational.

    Integers: radix-4 Booth digit `index`, of significance ``4**index``; one bit is a sign, and so is each of
    several planes, whose significance is the group's choice. BitMoD floats: of the magnitude's two set bits, the
    higher out of bits 4..1 first (significance 2), then the highest that is left out of bits 3..0. The second must
    not take the bit that the first one took.
    """
    term = Signal(Term, name=name)
    with m.Switch(kind):
        for k in sorted(kinds):
            with m.Case(k):
                bits = KIND_BITS[k]
                if k is WeightKind.INT1 or k in PLANES:
                    sign = ~Array(code[i] for i in range(TERMS[k]))[index]
                    m.d.comb += [term.sign.eq(sign), term.man.eq(index < TERMS[k])]
                    continue
                if k is WeightKind.TERNARY:
                    m.d.comb += [term.sign.eq(code[1]), term.man.eq(code[0] & (index == 0))]
                    continue
                if k in INT_BITS:
                    # An even number, for those who take two at once: the last may be zero.
                    extended = Cat(Const(0, 1), code[:bits], code[bits - 1].replicate(9 - bits))
                    triple = Array(extended[2 * i : 2 * i + 3] for i in range(TERMS[k] + TERMS[k] % 2))[index]
                    m.d.comb += [
                        term.sign.eq(triple[2]),
                        term.exp.eq((triple == 0b011) | (triple == 0b100)),
                        term.man.eq((triple != 0b000) & (triple != 0b111)),
                    ]
                    continue
                magnitudes, special = FLOATS[k]
                magnitude = Signal(5, name=f"{name}_{k.name}_magnitude")
                sign = Signal(name=f"{name}_{k.name}_sign")
                with m.If(code[:bits] == 1 << (bits - 1)):
                    m.d.comb += [magnitude.eq(Array([abs(v) for v in special])[select[:2]]),
                                 sign.eq(Array([int(v < 0) for v in special])[select[:2]])]
                with m.Else():
                    m.d.comb += [magnitude.eq(Array(magnitudes)[code[: bits - 1]]),
                                 sign.eq(code[bits - 1])]
                m.d.comb += term.sign.eq(sign)
                rest = Signal(4, name=f"{name}_{k.name}_rest")
                m.d.comb += rest.eq(magnitude[:4])
                # Later statements win, so the highest set bit does.
                for bit in range(1, 5):
                    with m.If(magnitude[bit]):
                        m.d.comb += rest.eq(magnitude[:4] & ~(1 << bit) & 0xF)
                with m.If(index == 0):
                    for bit in range(1, 5):
                        with m.If(magnitude[bit]):
                            m.d.comb += [term.exp.eq(bit - 1), term.man.eq(1)]
                with m.Else():
                    for bit in range(4):
                        with m.If(rest[bit]):
                            m.d.comb += [term.exp.eq(bit), term.man.eq(1)]
    return term


def shifted(term: Any, act: Value) -> Value:
    """The activation times a term, but for the term's significance."""
    value = (act << term.exp).as_signed()
    return Mux(term.man, Mux(term.sign, -value, value), 0)[: len(act) + 4].as_signed()


def is_planes(kind: Value) -> Value:
    return Cat(kind == k for k in PLANES).any()


def significance(kind: Value, select: Value, index: Value, kinds: frozenset[WeightKind]) -> Value:
    """Power of two, 0 to 6, of term number `index`: its exponent is counted from there. Planes have that which their
    group's gaps add up to."""
    value: Value = Mux(Cat(kind == k for k in FLOATS).any(), index == 0, index << 1)
    if kinds & set(PLANES):
        gaps = Array([Const(0, 3), select[:2], select[:2] + select[2:4]])
        value = Mux(is_planes(kind), gaps[index], value)
    return value[:3]


class BitSerialColumn(PipelinedColumn):
    """``dot[r] = sum(+-(act[r][k] << exp) << significance)`` over the terms of the codes of a group.

    Shifters and adders, no multiplier. The encoder is shared by the rows, as BitMoD shares it down a PE
    column (Fig. 5).
    Interval ``TERMS[kind]``; latency ``4 + TERMS[kind] + ceil(log4(lanes))``: operands, one term after the
    other, term, addend, adder tree, significance, accumulator.
    """

    KINDS = frozenset(TERMS)
    SHIFTS = 6

    @classmethod
    def cycles(cls, kind: WeightKind, act_bits: int) -> int:
        return TERMS[kind]

    @classmethod
    def depth(cls, lanes: int) -> int:
        return 2 + tree_levels(lanes)

    def place(self, m: Module, step: Step) -> tuple[Value, Value]:
        return significance(step.kind, step.select, step.index, self.kinds), Const(0)

    def sums(self, m: Module, step: Step) -> list[Value]:
        encoded = [encode_term(m, code, step.kind, step.select, step.index, self.kinds, f"term_{i}")
                   for i, code in enumerate(step.codes)]
        terms = [register(m, term, f"encoded_{i}") for i, term in enumerate(encoded)]
        sums = []
        for r in range(self.rows):
            addends = [
                register(m, shifted(term, register(m, step.acts[r][i], f"act_{r}_{i}")), f"addend_{r}_{i}")
                for i, term in enumerate(terms)]
            sums.append(adder_tree(m, addends, f"tree_{r}"))
        return sums
