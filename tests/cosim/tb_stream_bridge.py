"""Frames over AXI4-Stream, with cocotbext-axi on all four sides and hesitation on every channel."""

from __future__ import annotations

import itertools
import random
import struct
import zlib

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import (
    AxiBus,
    AxiLiteBus,
    AxiLiteRam,
    AxiRam,
    AxiStreamBus,
    AxiStreamSink,
    AxiStreamSource,
)

from wordline.fpga.uart_link import frame


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def memory_and_registers_over_streams(dut, stall):
    rng = random.Random(cocotb.RANDOM_SEED)
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    dut.running.value = 0
    source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis_"), dut.clk, dut.rst)
    sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_"), dut.clk, dut.rst)
    ram = AxiRam(AxiBus.from_prefix(dut, "memory_"), dut.clk, dut.rst, size=1 << 20)
    registers = AxiLiteRam(AxiLiteBus.from_prefix(dut, "control_"), dut.clk, dut.rst, size=256)
    if stall:
        for channel in (source, sink, ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel,
                        ram.read_if.ar_channel, ram.read_if.r_channel, registers.write_if.w_channel,
                        registers.read_if.ar_channel):
            dice = random.Random(rng.random())
            channel.set_pause_generator(dice.random() < stall for _ in itertools.count())
    await ClockCycles(dut.clk, 5)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 5)

    async def ask(packet: bytes) -> bytes:
        """The answer, a packet; the frame is cut into packets anywhere."""
        while packet:
            n = rng.randrange(1, len(packet) + 1)
            await source.send(packet[:n])
            packet = packet[n:]
        return bytes((await with_timeout(sink.recv(), 1, "ms")).tdata)

    def answer(data: bytes) -> bytes:
        return b"K" + data + struct.pack("<I", zlib.crc32(data))

    for _ in range(5):
        address, data = rng.randrange(0, 1 << 19, 8), rng.randbytes(8 * rng.randrange(1, 20))
        assert await ask(frame("W", address, len(data), data)) == b"K"
        assert ram.read(address, len(data)) == data
        ram.write(address, data[::-1])
        assert await ask(frame("R", address, len(data))) == answer(data[::-1])
        offset, value = rng.randrange(0, 256, 4), rng.getrandbits(32)
        assert await ask(frame("w", offset, value)) == b"K"
        assert registers.read_dword(offset) == value
        assert await ask(frame("r", offset, 0)) == answer(struct.pack("<I", value))
    packet = bytearray(frame("W", 64, 16, bytes(16)))
    packet[20] ^= 1
    assert await ask(bytes(packet)) == b"E"
    dut.running.value = 1
    ram.write(64, b"x" * 16)
    assert await ask(frame("W", 64, 16, bytes(16))) == b"B"
    assert await ask(frame("R", 64, 16)) == b"B"
    assert ram.read(64, 16) == b"x" * 16
