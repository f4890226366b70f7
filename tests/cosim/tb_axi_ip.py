"""The IP among cocotbext-axi's peers: its self-test with back-pressure, errors, silence, and a reset in the middle."""

from __future__ import annotations

import itertools
import json
import os
import random
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.handle import Force, Release
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiRamRead,
    AxiRamWrite,
    AxiReadBus,
    AxiWriteBus,
    SparseMemory,
)

FOLDER = Path(os.environ["IP_FOLDER"])
PORTS = int(os.environ["IP_PORTS"])
BASE = 0x12_3456_7000
R = json.loads(os.environ["IP_REGISTERS"])


class Bench:
    def __init__(self, dut, seed: int, stall: float):
        self.dut = dut
        Clock(dut.ap_clk, 10, unit="ns").start()
        dut.ap_rst_n.value = 0
        self.image = SparseMemory(1 << 40)
        self.control = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), dut.ap_clk, dut.ap_rst_n,
                                     reset_active_level=False)
        self.rams = []
        rng = random.Random(seed)
        for i in range(PORTS):
            prefix = f"m_axi_gmem{i}"
            read = AxiRamRead(AxiReadBus.from_prefix(dut, prefix), dut.ap_clk, dut.ap_rst_n, reset_active_level=False,
                              size=1 << 40, mem=self.image)
            write = AxiRamWrite(AxiWriteBus.from_prefix(dut, prefix), dut.ap_clk, dut.ap_rst_n,
                                reset_active_level=False, size=1 << 40, mem=self.image)
            self.rams += [read, write]
            for channel in (read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel):
                if stall:
                    draw = random.Random(rng.random())
                    channel.set_pause_generator(draw.random() < stall for _ in itertools.count())
            cocotb.start_soon(self.rules(prefix))

    async def rules(self, prefix: str):
        """VALID and payload stay until READY; no burst leaves its 4 KB; WLAST where AWLEN says."""
        dut, held = self.dut, {}
        pin = {name: getattr(dut, f"{prefix}_{name}") for name in (
            "arvalid", "arready", "araddr", "arlen", "arsize", "awvalid", "awready", "awaddr", "awlen", "awsize",
            "wvalid", "wready", "wdata", "wstrb", "wlast")}
        left: list[int] = []
        beats = 0
        while True:
            await FallingEdge(dut.ap_clk)
            if not int(dut.ap_rst_n.value) or int(dut.core.rst.value):
                held.clear()
                left.clear()
                beats = 0
                continue
            for channel, payload in (("ar", ("araddr", "arlen")), ("aw", ("awaddr", "awlen")),
                                     ("w", ("wdata", "wstrb", "wlast"))):
                offer = tuple(int(pin[name].value) for name in payload) if int(pin[f"{channel}valid"].value) else None
                if channel in held:
                    assert offer == held[channel], f"{prefix} {channel} changed before it was taken"
                held.pop(channel, None)
                if offer is None:
                    continue
                if not int(pin[f"{channel}ready"].value):
                    held[channel] = offer
                elif channel == "w":
                    beats += 1
                    assert not left or offer[2] == (beats == left[0] + 1), f"{prefix} wlast"
                    if offer[2]:
                        beats = 0
                        if left:
                            left.pop(0)
                else:
                    size = 1 << int(pin[f"{channel}size"].value)
                    first, last = offer[0], offer[0] + (offer[1] + 1) * size - 1
                    assert first // 4096 == last // 4096, f"{prefix} {channel} crosses 4 KB"
                    if channel == "aw":
                        left.append(offer[1])

    async def reset(self):
        self.dut.ap_rst_n.value = 0
        await ClockCycles(self.dut.ap_clk, 10)
        self.dut.ap_rst_n.value = 1
        await ClockCycles(self.dut.ap_clk, 5)

    async def write(self, register: str, value: int):
        await self.control.write_dword(R[register], value & 0xFFFFFFFF)

    async def read(self, register: str) -> int:
        return await self.control.read_dword(R[register])

    async def start(self):
        header = json.loads((FOLDER / "program.json").read_text())
        for address, text in header["image"].items():
            self.image.write(BASE + int(address), bytes.fromhex(text))
        self.image.write(BASE + header["result"], bytes(header["size"]))
        for register, value in (("MEMORY_LOW", BASE), ("MEMORY_HIGH", BASE >> 32), ("PROGRAM_LOW", header["program"]),
                                ("PROGRAM_HIGH", 0), ("PROGRAM_LENGTH", header["length"]), ("WATCHDOG", 300),
                                ("CONTROL", 1)):
            await self.write(register, value)
        return header

    async def finish(self, limit: int = 100000) -> int:
        for _ in range(limit // 50):
            await ClockCycles(self.dut.ap_clk, 50)
            status = await self.read("STATUS")
            if status & 2:
                return status >> 4 & 15
        raise AssertionError("the program did not end")

    async def right(self) -> None:
        header = await self.start()
        assert await self.finish() == 0
        want = np.load(FOLDER / "expected.npy").astype("<f4").tobytes()
        assert bytes(self.image.read(BASE + header["result"], header["size"])) == want
        assert await self.read("FAULT") == 0 and await self.read("CYCLES_LOW") > 100


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def the_self_test_passes(dut, stall):
    bench = Bench(dut, 3, stall)
    await bench.reset()
    assert await bench.read("HARDWARE_LOW") == int(os.environ["IP_HARDWARE"][8:], 16)
    await bench.right()
    await bench.right()


@cocotb.test()
async def a_reset_in_the_middle_is_survived(dut):
    bench = Bench(dut, 5, 0.3)
    await bench.reset()
    for after in (40, 111, 222, 333, 517):
        await bench.start()
        await ClockCycles(dut.ap_clk, after)
        await bench.reset()
        await bench.right()


@cocotb.test()
async def a_silent_memory_ends_the_program(dut):
    """All ports stop in mid-burst: an error instead of hanging; they go on: everything works again."""
    bench = Bench(dut, 7, 0.0)
    await bench.reset()
    for after in (5, 60, 300):
        await bench.start()
        await ClockCycles(dut.ap_clk, after)
        channels = [c for ram in bench.rams for c in ((ram.ar_channel, ram.r_channel) if hasattr(ram, "ar_channel")
                                                      else (ram.aw_channel, ram.w_channel, ram.b_channel))]
        for channel in channels:
            channel.pause = True
        error = await bench.finish()
        assert error in (1, 2) and await bench.read("FAULT") == 1, error
        for channel in channels:
            channel.pause = False
        await ClockCycles(dut.ap_clk, 2000)
        assert await bench.read("FAULT") == 0
        await bench.right()


@cocotb.test()
async def an_error_response_ends_the_program(dut):
    """SLVERR on every read of one port, then on every write."""
    bench = Bench(dut, 9, 0.2)
    await bench.reset()
    for channel, code in (("rresp", 1), ("bresp", 2)):
        pins = [getattr(dut.core, f"m_axi_gmem{i}_{channel}") for i in range(PORTS)]
        for pin in pins:
            pin.value = Force(2)
        await bench.start()
        assert await bench.finish() == code
        for pin in pins:
            pin.value = Release()
        await RisingEdge(dut.ap_clk)
        await bench.right()
