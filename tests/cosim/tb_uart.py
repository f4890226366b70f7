"""A person at the board's serial port: types a line bit by bit, reads the answer bit by bit."""

from __future__ import annotations

import os

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

PERIOD_NS = 20
DIVISOR = int(os.environ["UART_DIVISOR"])
BIT_NS = PERIOD_NS * DIVISOR


def start(dut) -> None:
    """Clock at the core's rate, the line idle, the button up."""
    dut["uart_0__rx__io"].value = 1
    dut["button_fire_0__io"].value = 0
    Clock(dut["clk25_0__io"], PERIOD_NS, unit="ns").start()


async def send(dut, text: bytes) -> None:
    for byte in text:
        for bit in [0, *(byte >> i & 1 for i in range(8)), 1]:
            dut["uart_0__rx__io"].value = bit
            await Timer(BIT_NS, "ns")


async def receive(dut, ends: bytes, most: int = 1 << 30) -> bytes:
    """Bytes until the given end, or so many."""
    got = b""
    while not got.endswith(ends) and len(got) < most:
        await FallingEdge(dut["uart_0__tx__io"])
        await Timer(BIT_NS + BIT_NS // 2, "ns")
        byte = 0
        for i in range(8):
            byte |= int(dut["uart_0__tx__io"].value) << i
            await Timer(BIT_NS, "ns")
        assert int(dut["uart_0__tx__io"].value) == 1, "no stop bit"
        got += bytes([byte])
    return got


@cocotb.test()
async def a_line_is_answered(dut):
    start(dut)
    await receive(dut, b"\r\n> ")
    most = int(os.environ["UART_CHARACTERS"])  # of each answer
    for line, answer in zip(os.environ["UART_LINES"].split("\n"), os.environ["UART_ANSWERS"].split("\0"), strict=True):
        expected = (line + answer).encode() + b"\r\n> "
        expected = expected[: len(line.encode()) + most]
        listening = cocotb.start_soon(receive(dut, b"\r\n> ", len(expected)))
        await send(dut, line.encode() + b"\r")
        got = await listening
        cocotb.log.info("%r", got)
        assert got == expected
