"""Proof by SAT that `bit_serial`'s terms and `mac`'s multiplier are the same product, for every code and activation."""

import pytest
from amaranth.back import verilog
from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.bit_serial import TERMS, encode_term, significance
from wordline.pe.datatypes import WeightKind
from wordline.pe.mac import decode_weight
from wordline.sim import toolchain


class Lane(wiring.Component):
    """`equal`: the shifted activations of a code's terms add up to activation times decoded code."""

    def __init__(self, kind: WeightKind, act_bits: int):
        self.kind, self.act_bits = kind, act_bits
        super().__init__({"code": In(unsigned(8)), "select": In(4), "act": In(signed(act_bits)),
                          "equal": Out(1), "never_ten": Out(1)})

    def elaborate(self, platform):
        m = Module()
        kind, kinds = Const(self.kind, 4), frozenset({self.kind})
        value = decode_weight(m, self.code, kind, self.select, kinds, "value")
        total = Signal(signed(self.act_bits + 10))
        parts = []
        for i in range(TERMS[self.kind]):
            term = encode_term(m, self.code, kind, self.select, Const(i, 2), kinds, f"term_{i}")
            part = Signal(signed(self.act_bits + 10), name=f"part_{i}")
            shifted = (self.act << term.exp) << significance(kind, self.select, Const(i, 2), kinds)
            m.d.comb += part.eq(Mux(term.man, Mux(term.sign, -shifted, shifted), 0))
            parts.append(part)
        m.d.comb += [total.eq(sum(parts[1:], parts[0])), self.equal.eq(total == self.act * value),
                     self.never_ten.eq(value != 10)]
        return m


def prove(lane: Lane, output: str, folder) -> None:
    try:
        yosys = toolchain.yosys()
    except toolchain.MissingTool as missing:
        pytest.skip(str(missing))
    (folder / "lane.v").write_text(verilog.convert(lane, name="lane", emit_src=False))
    script = f"read_verilog lane.v; proc; flatten; memory; opt; sat -verify -prove {output} 1 lane"
    yosys.run(["-q", "-p", script], folder)


@pytest.mark.parametrize("kind", WeightKind, ids=lambda k: k.name)
def test_terms_of_a_code_are_its_product(kind, tmp_path):
    prove(Lane(kind, 4), "equal", tmp_path)


def test_what_is_false_is_not_proven(tmp_path):
    with pytest.raises(toolchain.ToolFailed, match="proof did fail"):
        prove(Lane(WeightKind.FP4, 4), "never_ten", tmp_path)
