"""A byte at the serial port of a self-testing PE array, and the line that it brings."""

from __future__ import annotations

import os

import cocotb
from tb_uart import receive, send, start


@cocotb.test()
async def a_key_brings_the_line(dut):
    start(dut)
    listening = cocotb.start_soon(receive(dut, b"\n"))
    await send(dut, b"?")
    assert await listening == os.environ["ARRAY_LINE"].encode()
