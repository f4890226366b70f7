"""The top with SDRAM, at its pins: the driver over the serial port, the chip that checks its timing behind."""

from __future__ import annotations

import os

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from sdram_model import SdramModel

from wordline.fpga.driver import REGISTERS, Driver
from wordline.fpga.uart_link import Link, LinkBuffer, LinkError, frame
from wordline.sim.dram_devices import DEVICES

DIVISOR, STARTUP = int(os.environ["TOP_DIVISOR"]), int(os.environ["TOP_STARTUP"])
FOLDER = os.environ["TOP_FOLDER"]


class Serial:
    """A computer's serial port at the pins rx and tx; `spoil` bytes from now one arrives wrong."""

    def __init__(self, dut):
        self.dut, self.received, self.spoil = dut, bytearray(), 0
        dut.rx.value = 1
        cocotb.start_soon(self._listen())

    async def _listen(self):
        dut = self.dut
        while True:
            await FallingEdge(dut.tx)
            await ClockCycles(dut.clk, DIVISOR // 2)
            byte = 0
            for i in range(8):
                await ClockCycles(dut.clk, DIVISOR)
                byte |= int(dut.tx.value) << i
            await ClockCycles(dut.clk, DIVISOR)
            assert int(dut.tx.value) == 1
            self.received.append(byte)

    @resume
    async def write(self, data: bytes):
        for byte in data:
            if self.spoil:
                self.spoil -= 1
                byte ^= 16 if not self.spoil else 0
            for bit in (0, *(byte >> i & 1 for i in range(8)), 1):
                self.dut.rx.value = bit
                await ClockCycles(self.dut.clk, DIVISOR)

    @resume
    async def read(self, count: int) -> bytes:
        for _ in range(2000 + 40 * count):
            if len(self.received) >= count:
                break
            await ClockCycles(self.dut.clk, DIVISOR)
        data = bytes(self.received[:count])
        del self.received[:count]
        return data


async def chip(dut, model: SdramModel):
    pins = [getattr(dut, f"sdram__{name}") for name in ("cke", "command", "ba", "a", "dqm", "dq_oe", "dq_o")]
    driven = None
    while True:
        if model.word != driven:
            driven = dut.sdram__dq_i.value = model.word
        await RisingEdge(dut.clk)  # what is read below was there before this edge
        if not int(dut.rst.value):
            model.clock(*(int(pin.value) for pin in pins))


@cocotb.test()
async def a_program_comes_and_goes_over_the_serial_port(dut):
    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    dut.sdram__dq_i.value = 0
    serial = Serial(dut)
    model = SdramModel(dut.sdram, DEVICES["sdr-133"], startup=STARTUP)
    cocotb.start_soon(chip(dut, model))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, STARTUP + 200)

    @bridge
    def computer():
        link = Link(serial)
        # Memory, with bytes spoiled on the way: header, data, the data's checksum.
        data = bytes(range(7, 47))
        for spoil in (0, 3, 13 + 5, 13 + 41):
            link.put(0x10000, bytes(40))
            serial.spoil = spoil
            link.put(0x10000, data)
            assert link.get(0x10000, 40) == data and not serial.spoil
        serial.write(frame("?", 0, 0))
        assert serial.read(1) == b"E"

        driver = Driver(link, LinkBuffer(link))
        driver.selftest(os.path.join(FOLDER, "selftest.wlp"), np.load(os.path.join(FOLDER, "expected.npy")))
        driver.buffer[0x10003:0x10009] = 1  # not whole beats
        assert bytes(driver.buffer[0x10000:0x10010]) == data[:3] + b"\x01" * 6 + data[9:16]

        # While a program runs its memory cannot be reached, its registers can.
        link.write(REGISTERS["CONTROL"], 1)
        try:
            link.get(0, 8)
            raise AssertionError("memory was read while a program ran")
        except LinkError as error:
            assert "a program runs" in str(error)
        while not link.read(REGISTERS["STATUS"]) & 2:
            pass
        return bytes(driver.memory(0x10000, 8))

    assert await computer() == bytes([7, 8, 9, 1, 1, 1, 1, 1])
    dut._log.info("%d cycles, %d refreshes", model.now, len(model.refreshed))
    assert len(model.refreshed) > 5
