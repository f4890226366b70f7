"""Test bench of the runner's own test: a one-entry delay line."""

from __future__ import annotations

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

WIDTH = int(os.environ["DELAY_WIDTH"])


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(count=[1, 50])
async def output_is_the_previous_input(dut, count):
    Clock(dut.clk, 10, unit="ns").start()
    rng = random.Random(cocotb.RANDOM_SEED)
    dut.rst.value = 0
    dut["data__payload"].value = 0
    await FallingEdge(dut.clk)
    for _ in range(count):
        sent = rng.getrandbits(WIDTH)
        dut["data__payload"].value = sent
        await FallingEdge(dut.clk)
        assert dut.delayed.value.to_unsigned() == sent


@cocotb.test(skip="DELAY_BREAK" not in os.environ)
async def broken_on_purpose(dut):
    raise AssertionError("this failure was asked for")
