"""The IP among cocotbext-axi's peers: its self-test with back-pressure, errors, silence, and resets at any time."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import deque
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiRamRead,
    AxiRamWrite,
    AxiReadBus,
    AxiResp,
    AxiWriteBus,
)
from cocotbext.axi.sparse_memory import SparseMemory

FOLDER = Path(os.environ["IP_FOLDER"])
PORTS = int(os.environ["IP_PORTS"])
BASE = 0x12_3456_7000
REGISTERS = json.loads(os.environ["IP_REGISTERS"])
HEADER = json.loads((FOLDER / "program.json").read_text())
EXPECTED = np.load(FOLDER / "expected.npy").astype("<f4").tobytes()
WATCHDOG = 300
BUS_READ, BUS_WRITE = 1, 2
#: What the master drives on each channel, beside VALID.
MASTER = {"ar": ("araddr", "arlen", "arsize", "arburst", "arid"),
          "aw": ("awaddr", "awlen", "awsize", "awburst", "awid"), "w": ("wdata", "wstrb", "wlast")}
SLAVE = {"r": ("rdata", "rresp"), "b": ("bresp",)}


class Bench:
    """Clock, a memory at every port, the control port's master, and the rules of the protocol as assertions.

    `read_response` and `write_response` are what the memory answers with.
    """

    def __init__(self, dut, stall: float = 0.0):
        self.dut, self.rng = dut, random.Random(cocotb.RANDOM_SEED)
        Clock(dut.ap_clk, 10, unit="ns").start()
        dut.ap_rst_n.value = 0
        self.memory = SparseMemory(1 << 40)
        self.read_response = self.write_response = AxiResp.OKAY
        common = {"clock": dut.ap_clk, "reset": dut.ap_rst_n, "reset_active_level": False}
        self.control = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), **common)
        self.reads, self.writes = [], []
        for i in range(PORTS):
            prefix = f"m_axi_gmem{i}"
            read = AxiRamRead(AxiReadBus.from_prefix(dut, prefix), mem=self.memory, size=1 << 40, **common)
            write = AxiRamWrite(AxiWriteBus.from_prefix(dut, prefix), mem=self.memory, size=1 << 40, **common)
            self._answer(read.r_channel, "read_response", "rresp")
            self._answer(write.b_channel, "write_response", "bresp")
            self.reads += [read.ar_channel, read.r_channel]
            self.writes += [write.aw_channel, write.w_channel, write.b_channel]
        if stall:
            control = [self.control.read_if.ar_channel, self.control.read_if.r_channel,
                       self.control.write_if.aw_channel, self.control.write_if.w_channel,
                       self.control.write_if.b_channel]
            for channel in self.reads + self.writes + control:
                dice = random.Random(self.rng.random())
                channel.set_pause_generator(dice.random() < stall for _ in itertools.count())
        self.ports = [Rules(dut, f"m_axi_gmem{i}") for i in range(PORTS)]
        for rules in self.ports:
            cocotb.start_soon(rules.watch())
        cocotb.start_soon(steady(dut, "s_axi_control", SLAVE))

    def _answer(self, channel, field: str, name: str) -> None:
        """Every response of `channel` is what `self.field` says at that time."""
        send = channel.send

        async def sends(transaction):
            response = getattr(self, field)
            if response != AxiResp.OKAY:
                setattr(transaction, name, response)
            await send(transaction)

        channel.send = sends

    async def reset(self, cycles: int = 8) -> None:
        self.dut.ap_rst_n.value = 0
        await ClockCycles(self.dut.ap_clk, cycles)
        self.dut.ap_rst_n.value = 1
        await ClockCycles(self.dut.ap_clk, 4)

    async def write(self, register: str, value: int) -> None:
        await self.control.write_dword(REGISTERS[register], value & 0xFFFFFFFF)

    async def read(self, register: str) -> int:
        return await self.control.read_dword(REGISTERS[register])

    async def start(self) -> None:
        for address, text in HEADER["image"].items():
            self.memory.write(BASE + int(address), bytes.fromhex(text))
        self.memory.write(BASE + HEADER["result"], bytes(HEADER["size"]))
        for register, value in (("MEMORY_LOW", BASE), ("MEMORY_HIGH", BASE >> 32), ("PROGRAM_LOW", HEADER["program"]),
                                ("PROGRAM_HIGH", 0), ("PROGRAM_LENGTH", HEADER["length"]), ("WATCHDOG", WATCHDOG),
                                ("CONTROL", 1)):
            await self.write(register, value)

    async def finish(self, limit: int = 40000) -> int:
        """The error code with which the program ends."""
        for _ in range(limit // 50):
            await ClockCycles(self.dut.ap_clk, 50)
            status = await self.read("STATUS")
            if status & 2:
                return status >> 4 & 15
        raise AssertionError(f"the program did not end within {limit} cycles")

    async def right(self) -> int:
        """A whole run; its cycles."""
        await self.start()
        assert await self.finish() == 0
        assert bytes(self.memory.read(BASE + HEADER["result"], HEADER["size"])) == EXPECTED
        assert await self.read("FAULT") == 0
        for rules in self.ports:
            rules.nothing_is_missing()
        return await self.read("CYCLES_LOW")


async def steady(dut, prefix: str, channels) -> None:
    """VALID and payload stay until READY."""
    pins = {name: getattr(dut, f"{prefix}_{name}") for channel, names in channels.items()
            for name in (f"{channel}valid", f"{channel}ready", *names)}
    held: dict = {}
    while True:
        await FallingEdge(dut.ap_clk)
        if not int(dut.ap_rst_n.value) or int(dut.rst.value):
            held.clear()
            continue
        for channel, names in channels.items():
            offer = None
            if int(pins[f"{channel}valid"].value):
                offer = tuple(int(pins[name].value) for name in names)
            if channel in held:
                assert offer == held.pop(channel), f"{prefix} {channel} changed before it was taken"
            if offer is not None and not int(pins[f"{channel}ready"].value):
                held[channel] = offer


class Rules:
    """A master port: bursts within 4 KB, WLAST where AWLEN says, and nothing asked for that does not come back."""

    def __init__(self, dut, prefix: str):
        self.dut, self.prefix = dut, prefix
        self.clear()

    def clear(self) -> None:
        self.beats_owed, self.answers_owed = 0, 0
        self.lengths: deque[int] = deque()  # of write addresses without their data
        self.bursts: deque[int] = deque()  # of data without their address
        self.beats = 0

    def nothing_is_missing(self) -> None:
        assert (self.beats_owed, self.answers_owed, self.beats) == (0, 0, 0), self.prefix
        assert not self.lengths and not self.bursts, self.prefix

    async def watch(self) -> None:
        dut, prefix = self.dut, self.prefix
        cocotb.start_soon(steady(dut, prefix, MASTER))

        def pin(name: str):
            return getattr(dut, f"{prefix}_{name}")

        handshakes = {c: (pin(f"{c}valid"), pin(f"{c}ready")) for c in ("ar", "r", "aw", "w", "b")}
        wlast, rlast = pin("wlast"), pin("rlast")
        addresses = {c: (pin(f"{c}addr"), pin(f"{c}len"), pin(f"{c}size"), pin(f"{c}burst")) for c in ("ar", "aw")}
        read_left: deque[int] = deque()
        while True:
            await FallingEdge(dut.ap_clk)
            if not int(dut.ap_rst_n.value) or int(dut.rst.value):
                self.clear()
                read_left.clear()
                continue
            moved = {c for c, (valid, ready) in handshakes.items() if int(valid.value) and int(ready.value)}
            for channel in moved & addresses.keys():
                first, length, size, burst = (int(p.value) for p in addresses[channel])
                assert burst == 1 and first % (1 << size) == 0
                last = first + ((length + 1) << size) - 1
                assert first // 4096 == last // 4096, f"{prefix} {channel} crosses 4 KB"
                assert first >= BASE and last < BASE + HEADER["memory"], f"{prefix} {channel} {first:#x}"
                if channel == "ar":
                    self.beats_owed += length + 1
                    read_left.append(length + 1)
                else:
                    self.answers_owed += 1
                    self.lengths.append(length + 1)
            if "w" in moved:
                self.beats += 1
                if int(wlast.value):
                    self.bursts.append(self.beats)
                    self.beats = 0
            while self.lengths and self.bursts:
                assert self.lengths.popleft() == self.bursts.popleft(), f"{prefix} wlast"
            if "r" in moved:
                self.beats_owed -= 1
                read_left[0] -= 1
                assert int(rlast.value) == (read_left[0] == 0)
                if not read_left[0]:
                    read_left.popleft()
            if "b" in moved:
                self.answers_owed -= 1
            assert self.beats_owed >= 0 and self.answers_owed >= 0


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def the_self_test_passes(dut, stall):
    bench = Bench(dut, stall)
    await bench.reset()
    assert await bench.read("HARDWARE_LOW") == int(os.environ["IP_HARDWARE"][8:], 16)
    assert await bench.read("HARDWARE_HIGH") == int(os.environ["IP_HARDWARE"][:8], 16)
    await bench.right()
    await bench.right()


@cocotb.test()
async def a_reset_at_any_time_is_survived(dut):
    """Between two writes of the control port, in the middle of a burst, near the end; then a run that is right."""
    bench = Bench(dut, 0.3)
    await bench.reset()
    whole = await bench.right()
    bursts = 0
    for _ in range(8):
        start = cocotb.start_soon(bench.start())
        await ClockCycles(dut.ap_clk, bench.rng.randrange(whole + 60))
        start.cancel()
        bursts += any(rules.beats_owed or rules.answers_owed for rules in bench.ports)
        await bench.reset(bench.rng.randrange(4, 10))
        await bench.right()
    assert bursts  # some of the resets were in the middle of a burst


@cocotb.test()
@cocotb.parametrize(side=["reads", "writes", "both"])
async def a_silent_memory_ends_the_program(dut, side):
    """Ports stop at any time: an error instead of hanging; they go on: everything works again."""
    bench = Bench(dut)
    await bench.reset()
    whole = await bench.right()
    channels = {"reads": bench.reads, "writes": bench.writes, "both": bench.reads + bench.writes}[side]
    silenced = 0
    for part in range(4):
        await bench.start()
        await ClockCycles(dut.ap_clk, part * whole // 4 + bench.rng.randrange(whole // 8))
        for channel in channels:
            channel.pause = True
        error = await bench.finish()
        fault = await bench.read("FAULT")
        # Who falls silent when nothing more is asked of it has not failed.
        assert (error, fault) == (0, 0) or error in {"reads": [BUS_READ], "writes": [BUS_WRITE]}.get(
            side, [BUS_READ, BUS_WRITE]) and fault == 1, (error, fault)
        silenced += fault
        if fault:  # a program that begins now ends with an error too
            await bench.start()
            assert await bench.finish() in (BUS_READ, BUS_WRITE)
        for channel in channels:
            channel.pause = False
        await ClockCycles(dut.ap_clk, 500)
        await bench.right()
    assert silenced


@cocotb.test()
@cocotb.parametrize(response=[AxiResp.SLVERR, AxiResp.DECERR])
async def an_error_response_ends_the_program(dut, response):
    """From some time on every read, or every write, is answered with an error; then the memory is well again."""
    bench = Bench(dut, 0.2)
    await bench.reset()
    whole = await bench.right()
    seen = set()
    for field, code in (("read_response", BUS_READ), ("write_response", BUS_WRITE)):
        for after in (0, whole // 3):
            await bench.start()
            await ClockCycles(dut.ap_clk, after)
            setattr(bench, field, response)
            error = await bench.finish()
            assert error in (0, code)
            seen.add(error)
            setattr(bench, field, AxiResp.OKAY)
            await bench.right()
    assert {BUS_READ, BUS_WRITE} <= seen
