"""A component poked by hand through Verilator and pyverilator."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from wordline.sim import toolchain
from wordline.sim.poke import poke


class Accumulator(wiring.Component):
    """Adds what arrives; wide enough at one port to need more than one word in C++."""

    def __init__(self) -> None:
        super().__init__(
            {
                "addend": In(stream.Signature(signed(8))),
                "total": Out(signed(16)),
                "mask": In(100),
                "inverse": Out(100),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.addend.ready.eq(1), self.inverse.eq(~self.mask)]
        with m.If(self.addend.valid):
            m.d.sync += self.total.eq(self.total + self.addend.payload)
        return m


@pytest.fixture(scope="module")
def sim():
    try:
        toolchain.verilator()
        toolchain.perl()
    except toolchain.MissingTool as missing:
        pytest.skip(str(missing))
    with poke(Accumulator(), "accumulator") as sim:
        yield sim


def test_clocked_logic_follows_ticks(sim):
    sim.io.rst = 1
    sim.clock.tick()
    sim.io.rst = 0
    sim.io.addend__valid = 1
    for addend in (100, 27, -128, -3):
        sim.io.addend__payload = addend & 0xFF
        sim.clock.tick()
    assert sim.io.total == (100 + 27 - 128 - 3) & 0xFFFF

    sim.io.addend__valid = 0
    sim.clock.tick()
    assert sim.io.total == -4 & 0xFFFF


def test_combinational_logic_settles_without_a_clock(sim):
    sim.io.mask = 1 << 99 | 5
    assert sim.io.inverse == (1 << 100) - 1 ^ (1 << 99 | 5)
