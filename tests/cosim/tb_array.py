"""A byte at the serial port of a self-testing PE array, and the line that it brings."""

from __future__ import annotations

import os

import cocotb
from cocotb.triggers import Timer
from tb_uart import PERIOD_NS, receive, send, start


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def a_key_brings_the_line(dut):
    start(dut)
    await Timer(500 * PERIOD_NS, "ns")  # Amaranth holds an iCE40 in reset for 15 us
    listening = cocotb.start_soon(receive(dut, b"\n"))
    await send(dut, b"?")
    assert await listening == os.environ["ARRAY_LINE"].encode()
