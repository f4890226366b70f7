"""Two circuits with the same inputs: their outputs must be the same after every change of some inputs."""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import Timer


@cocotb.test()
async def outputs_are_the_same(dut):
    seen = set()
    inputs = 0
    for _ in range(3000):
        inputs ^= 1 << random.randrange(len(dut.i))
        dut.i.value = inputs
        await Timer(1, "ns")
        assert str(dut.a.value) == str(dut.b.value)
        seen.add(str(dut.a.value))
    assert len(seen) > 1000
