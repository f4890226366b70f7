"""`bit_serial`: BitMoD's processing element, which takes a weight as a series of signed powers of two.

A weight is the sum of terms ``(-1)^sign * 2^exp * man * 2^significance`` (HPCA 2025, arXiv 2411.11745,
Eq. 4), one term per lane and cycle, so that a step takes as many cycles as its datatype has terms:
4 at INT8 and INT7, 3 at INT6 and INT5, 2 at FP4 and FP3. The paper's PE has FP16 activations; this one has
integers, so the alignment of exponents falls away and the dot product is exact.
"""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data

from wordline.pe.datatypes import (
    FP3_MAGNITUDES,
    FP3_SPECIAL,
    FP4_MAGNITUDES,
    FP4_SPECIAL,
    INT_BITS,
    KIND_BITS,
    WeightKind,
)
from wordline.pe.family import PeColumn, Timing, adder_tree, tree_levels

#: Terms of a code: radix-4 Booth digits of an integer, set bits of a BitMoD float.
TERMS = {kind: (bits + 1) // 2 for kind, bits in INT_BITS.items()} | {
    WeightKind.INT1: 1, WeightKind.FP4: 2, WeightKind.FP3: 2}

_FLOATS = {WeightKind.FP4: (FP4_MAGNITUDES, FP4_SPECIAL), WeightKind.FP3: (FP3_MAGNITUDES, FP3_SPECIAL)}


class Term(data.Struct):
    """One signed power of two; the term is zero where `man` is."""

    sign: unsigned(1)
    exp: unsigned(2)
    man: unsigned(1)


def encode_term(m: Module, code: Value, kind: Value, select: Value, index: Value,
                kinds: frozenset[WeightKind], name: str) -> Any:
    """Term number `index` of a code, combinational.

    Integers: radix-4 Booth digit `index`, of significance ``4**index``; one bit is a sign. BitMoD floats: of the
    magnitude's two set bits, the higher out of bits 4..1 first (significance 2), then the highest
    that is left out of bits 3..0. The second must not take the bit that the first one took.
    """
    term = Signal(Term, name=name)
    with m.Switch(kind):
        for k in sorted(kinds):
            with m.Case(k):
                bits = KIND_BITS[k]
                if k is WeightKind.INT1:
                    m.d.comb += [term.sign.eq(~code[0]), term.man.eq(1)]
                    continue
                if k in INT_BITS:
                    extended = Cat(Const(0, 1), code[:bits], code[bits - 1].replicate(9 - bits))
                    triple = Array(extended[2 * i : 2 * i + 3] for i in range(TERMS[k]))[index]
                    m.d.comb += [
                        term.sign.eq(triple[2]),
                        term.exp.eq((triple == 0b011) | (triple == 0b100)),
                        term.man.eq((triple != 0b000) & (triple != 0b111)),
                    ]
                    continue
                magnitudes, special = _FLOATS[k]
                magnitude = Signal(5, name=f"{name}_{k.name}_magnitude")
                sign = Signal(name=f"{name}_{k.name}_sign")
                with m.If(code[:bits] == 1 << (bits - 1)):
                    m.d.comb += [magnitude.eq(Array([abs(v) for v in special])[select]),
                                 sign.eq(Array([int(v < 0) for v in special])[select])]
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


class BitSerialColumn(PeColumn):
    """``dot[r] = sum(+-(act[r][k] << exp) << significance)`` over the terms of the codes of a group.

    Shifters and adders, no multiplier. The encoder is shared by the rows, as BitMoD shares it down a PE
    column (Fig. 5).
    Interval ``TERMS[kind]``; latency ``4 + TERMS[kind] + ceil(log4(lanes))``: operands, one term after the
    other, term, addend, adder tree, significance, accumulator.
    """

    @classmethod
    def timing(cls, kind: WeightKind, lanes: int) -> Timing:
        return Timing(interval=TERMS[kind], latency=4 + TERMS[kind] + tree_levels(lanes))

    def elaborate(self, platform):
        m = Module()
        step = self.weights.payload
        enable, more = Signal(), Signal()
        count = Signal(range(4))  # terms of the held step still to come after this one
        m.d.comb += [
            enable.eq(~self.dots.valid | self.dots.ready),
            more.eq(count != 0),
            self.acts.ready.eq(enable & ~more & self.weights.valid),
            self.weights.ready.eq(enable & ~more & self.acts.valid),
        ]
        taken = self.acts.valid & self.weights.valid

        # The step is held while its terms go out.
        held = Signal.like(self.weights.payload)
        acts = Signal.like(self.acts.payload)
        index, busy = Signal(range(4)), Signal()
        terms = Array(TERMS.get(k, 1) for k in range(16))
        with m.If(enable):
            with m.If(more):
                m.d.sync += [count.eq(count - 1), index.eq(index + 1)]
            with m.Else():
                m.d.sync += busy.eq(taken)
                with m.If(taken):
                    m.d.sync += [held.eq(step), acts.eq(self.acts.payload), index.eq(0),
                                 count.eq(terms[step.kind] - 1)]

        is_float = (held.kind == WeightKind.FP4) | (held.kind == WeightKind.FP3)
        depth = 2 + tree_levels(self.lanes) + 1
        valid, last = Signal(depth), Signal(depth)
        shifts = [Signal(3, name=f"significance_{i}") for i in range(depth - 1)]
        with m.If(enable):
            m.d.sync += [valid.eq((valid << 1) | busy), last.eq((last << 1) | (held.last & ~more))]
            m.d.sync += shifts[0].eq(Mux(is_float, index == 0, index << 1))
            m.d.sync += [b.eq(a) for a, b in zip(shifts, shifts[1:], strict=False)]
            m.d.sync += self.dots.valid.eq(valid[-1] & last[-1])

        encoded = []
        for i in range(self.lanes):
            term = encode_term(m, held.codes[i], held.kind, held.select, index, self.kinds, f"term_{i}")
            register = Signal(Term, name=f"encoded_{i}")
            with m.If(enable):
                m.d.sync += register.eq(term)
            encoded.append(register)

        first = Signal(init=1)
        with m.If(enable & valid[-1]):
            m.d.sync += first.eq(last[-1])
        for r in range(self.rows):
            addends = []
            for i, term in enumerate(encoded):
                act = Signal(signed(self.act_bits), name=f"act_{r}_{i}")
                shifted = (act << term.exp).as_signed()
                addend = Signal(signed(self.act_bits + 4), name=f"addend_{r}_{i}")
                with m.If(enable):
                    m.d.sync += act.eq(acts[r][i])
                    m.d.sync += addend.eq(Mux(term.man, Mux(term.sign, -shifted, shifted), 0))
                addends.append(addend)
            total, _ = adder_tree(m, addends, enable, f"tree_{r}")
            scaled = Signal(signed(len(total) + 6), name=f"scaled_{r}")
            acc = self.dots.payload[r]
            with m.If(enable):
                m.d.sync += scaled.eq(total << shifts[-1])
            with m.If(enable & valid[-1]):
                m.d.sync += acc.eq(Mux(first, 0, acc) + scaled)
        return m
