"""The cocotb runner itself: it passes, it fails and it notices that there was nothing to run."""

from __future__ import annotations

import pytest
from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from runner import run_cocotb


class Delay(wiring.Component):
    def __init__(self, width: int) -> None:
        super().__init__({"data": In(stream.Signature(width)), "delayed": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.data.ready.eq(1)
        m.d.sync += self.delayed.eq(self.data.payload)
        return m


def delay_verilog(width: int) -> str:
    return verilog.convert(Delay(width), name="delay", emit_src=False)


def test_passing_bench(tmp_path):
    run_cocotb(delay_verilog(70), "delay", "tb_delay", tmp_path, env={"DELAY_WIDTH": "70"}, seed=7)


def test_failing_bench_fails(tmp_path):
    env = {"DELAY_WIDTH": "8", "DELAY_BREAK": "1"}
    with pytest.raises(AssertionError, match="1 of 3 cocotb tests failed"):
        run_cocotb(delay_verilog(8), "delay", "tb_delay", tmp_path, env=env)


def test_bench_without_tests_fails(tmp_path):
    with pytest.raises((AssertionError, RuntimeError)):
        run_cocotb(delay_verilog(1), "delay", "colorsys", tmp_path)
