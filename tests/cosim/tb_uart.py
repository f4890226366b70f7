"""A person at the board's serial port: types a line bit by bit, reads the answer bit by bit."""

from __future__ import annotations

import json
import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, Timer

PERIOD_NS = 20
DIVISOR = int(os.environ["UART_DIVISOR"])
BIT_NS = PERIOD_NS * DIVISOR
CLOCK, BUTTON = os.environ["UART_CLOCK"], os.environ["UART_BUTTON"]


def start(dut) -> None:
    """Clock at the core's rate, the line idle, the button up, if there is one."""
    dut["uart_0__rx__io"].value = 1
    if BUTTON:
        dut[BUTTON].value = 0
    Clock(dut[CLOCK], PERIOD_NS, unit="ns").start()


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


LINES, ANSWERS = ([text.encode() for text in json.loads(os.environ.get(name, "[]"))]
                  for name in ("UART_LINES", "UART_ANSWERS"))
#: Of each answer, so many characters are compared.
MOST = int(os.environ.get("UART_CHARACTERS", 1 << 30))
RESETS = int(os.environ.get("UART_RESETS", 0))
PROMPT = b"\r\n> "


async def ask(dut, line: bytes, answer: bytes, most: int) -> None:
    """Type a line; what is read must be its echo, the answer, or so many characters of it, and a prompt."""
    expected = (line + answer + PROMPT)[: len(line) + most]
    listening = cocotb.start_soon(receive(dut, PROMPT, len(expected)))
    await send(dut, line + b"\r")
    got = await listening
    cocotb.log.info("%r", got)
    assert got == expected


async def press(dut) -> None:
    """The button, for some cycles; the board is silent while it is down, and then brings the prompt."""
    dut[BUTTON].value = 1
    dut["uart_0__rx__io"].value = 1
    await Timer(8 * PERIOD_NS, "ns")
    for _ in range(random.randrange(1, 100)):
        assert int(dut["uart_0__tx__io"].value) == 1 and int(dut["led_0__io"].value) == 0
        await Timer(PERIOD_NS, "ns")
    dut[BUTTON].value = 0
    assert await receive(dut, PROMPT, len(PROMPT)) == PROMPT


@cocotb.test()
async def a_line_is_answered(dut):
    start(dut)
    assert await receive(dut, PROMPT) == PROMPT
    for line, answer in zip(LINES, ANSWERS, strict=True):
        await ask(dut, line, answer, MOST)


@cocotb.test(skip=not RESETS)
async def a_reset_at_any_time_recovers(dut):
    """The button in the middle of a text, or at a random moment of typing and computing; then a line is answered."""
    start(dut)
    for i in range(RESETS):
        if i % 2:
            typing = cocotb.start_soon(send(dut, LINES[0] + b"\r"))
            await Timer(random.randrange(30 * len(LINES[0]) * BIT_NS), "ns")
            typing.cancel()
        elif i or len(ANSWERS[-1]) < MOST:  # else the test before has left it in the middle of one
            await ask(dut, LINES[0], ANSWERS[0], 8)
        await press(dut)
    await ask(dut, LINES[-1], ANSWERS[-1], min(MOST, 20))
