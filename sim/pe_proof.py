"""Proof by SAT that a column's dot products are right, for every code and activation: on the column itself,
pipeline and all.

From reset two groups of one step each, all their bits free, are taken as fast as the column takes them. In no state
that it can get into may a dot product differ from the integer product, or be missing at the declared time. The
first group stands for any history, the second shows that nothing is left of it. Yosys unrolls the clock cycles and
asks its SAT solver.
"""

from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.datatypes import KIND_BITS, WeightKind, decode_tables
from wordline.pe.family import CompleteColumn, act_layout, family
from wordline.sim import toolchain


class Proof(wiring.Component):
    """Two groups through a column of `lanes` lanes; `right` is to be 1 in the first `cycles` cycles."""

    def __init__(self, name: str, kind: WeightKind, lanes: int, act_bits: int):
        self.kind, self.lanes, self.act_bits = kind, lanes, act_bits
        self.column = family(name)(rows=1, lanes=lanes, act_bits=act_bits, kinds=frozenset({kind}), group_max=lanes)
        self.timing = self.column.timing(kind, lanes, act_bits)
        self.cycles = self.timing.interval + self.timing.latency + 2
        super().__init__({"acts": In(act_layout(1, lanes, act_bits)), "codes": In(8 * lanes), "select": In(4),
                          "right": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.column = column = CompleteColumn(self.column)
        step = column.weights.payload
        taken, results, clock = Signal(2), Signal(2), Signal(8)
        offers = taken != 2
        m.d.comb += [
            column.acts.valid.eq(offers), column.weights.valid.eq(offers), column.dots.ready.eq(1),
            column.acts.payload.eq(self.acts), step.kind.eq(self.kind), step.select.eq(self.select), step.last.eq(1),
        ]
        width = len(column.dots.payload[0])
        dot = Signal(signed(width + 2))
        products, tables = [], [Array(int(v) for v in table) for table in decode_tables(self.kind)]
        for i in range(self.lanes):
            code = self.codes.word_select(i, 8)
            m.d.comb += step.codes[i].eq(code)
            value = Signal(signed(8), name=f"value_{i}")
            m.d.comb += value.eq(Array(tables)[self.select][code[: KIND_BITS[self.kind]]])
            products.append(self.acts[0][i] * value)
        m.d.comb += dot.eq(sum(products[1:], products[0]))
        expected = [Signal.like(dot, name=f"expected_{i}") for i in range(2)]
        with m.If(offers & column.acts.ready):
            m.d.sync += [taken.eq(taken + 1)]
            with m.Switch(taken):
                for i in range(2):
                    with m.Case(i):
                        m.d.sync += expected[i].eq(dot)
        with m.If(column.dots.valid):
            m.d.sync += results.eq(results + 1)
        m.d.sync += clock.eq(clock + 1)
        at = [self.timing.latency, self.timing.latency + self.timing.interval]
        due = (clock == at[0]) | (clock == at[1])
        want = Mux(results == 0, expected[0], expected[1])
        m.d.comb += self.right.eq((column.dots.valid == due) & (~due | (column.dots.payload[0] == want)))
        return m


def prove(name: str, kind: WeightKind, lanes: int, act_bits: int, folder: Path) -> None:
    """Raises `toolchain.ToolFailed` if the column can be wrong, with an example."""
    proof = Proof(name, kind, lanes, act_bits)
    (folder / "proof.v").write_text(verilog.convert(proof, name="proof", emit_src=False))
    toolchain.yosys().run(["-q", "-p", "read_verilog proof.v; proc; flatten; memory; opt -full; "
                           f"sat -verify -seq {proof.cycles} -set rst 0 -prove right 1 proof"], folder)
