"""The control registers over AXI4-Lite, with master and responses that hesitate."""

import random

import pytest
from amaranth.sim import Simulator

from wordline.rtl.control import WATCHDOG, Control
from wordline.rtl.isa import Csr, ErrorCode, Unit


class Master:
    """One access after the other; every channel waits at random."""

    def __init__(self, ctx, dut, rng, slow):
        self.ctx, self.bus, self.rng, self.slow = ctx, dut.bus, rng, slow

    async def wait(self):
        while self.rng.random() < self.slow:
            await self.ctx.tick()

    async def until(self, signal):
        """To the cycle after the first in which `signal` is high, at most 20 cycles away."""
        for _ in range(20):
            high = self.ctx.get(signal)
            await self.ctx.tick()
            if high:
                return
        raise AssertionError("no answer")

    async def write(self, address, value):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.bready, self.slow == 0)
        channels = [("aw", bus.awvalid), ("w", bus.wvalid)]
        self.rng.shuffle(channels)
        for name, valid in channels:
            await self.wait()
            ctx.set(valid, 1)
            ctx.set(bus.awaddr if name == "aw" else bus.wdata, address if name == "aw" else value)
        ctx.set(bus.wstrb, 15)
        # The slave takes both in the same cycle.
        assert ctx.get(bus.awready) == ctx.get(bus.wready)
        await self.until(bus.awready)
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        ctx.set(bus.wdata, 0xDEADBEEF)
        await self.wait()
        ctx.set(bus.bready, 1)
        assert ctx.get(bus.bresp) == 0
        await self.until(bus.bvalid)

    async def read(self, address):
        ctx, bus = self.ctx, self.bus
        ctx.set(bus.rready, 0)
        ctx.set(bus.araddr, address)
        ctx.set(bus.arvalid, 1)
        await self.until(bus.arready)
        ctx.set(bus.arvalid, 0)
        ctx.set(bus.araddr, 0)
        await self.wait()
        assert ctx.get(bus.rvalid) and ctx.get(bus.rresp) == 0
        value = ctx.get(bus.rdata)
        ctx.set(bus.rready, 1)
        await self.until(bus.rvalid)
        return value


def simulate(bench, hardware=0):
    dut = Control(hardware)

    async def wrapped(ctx):
        await bench(ctx, dut)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(wrapped)
    sim.run()


@pytest.mark.parametrize("slow", [0.0, 0.6])
def test_registers_keep_what_is_written(slow):
    rng = random.Random(7)
    writable = {Csr.PROGRAM_LOW: 32, Csr.PROGRAM_HIGH: 8, Csr.PROGRAM_LENGTH: 16, Csr.ARGUMENT1: 32,
                Csr.ARGUMENT2: 32, Csr.ARGUMENT3: 32, Csr.ARGUMENT4: 32, Csr.WATCHDOG: 32, Csr.MEMORY_HIGH: 8}

    async def bench(ctx, dut):
        master = Master(ctx, dut, rng, slow)
        held = dict.fromkeys(writable, 0) | {Csr.WATCHDOG: WATCHDOG}
        for _ in range(40):
            register, value = rng.choice(list(writable)), rng.getrandbits(32)
            await master.write(register, value)
            held[register] = value & (1 << writable[register]) - 1
            probe = rng.choice(list(writable))
            assert await master.read(probe) == held[probe]
        assert ctx.get(dut.program_address) == held[Csr.PROGRAM_HIGH] << 32 | held[Csr.PROGRAM_LOW]
        assert ctx.get(dut.program_length) == held[Csr.PROGRAM_LENGTH]
        for i in range(4):
            assert ctx.get(dut.arguments[i]) & 0xFFFFFFFF == held[Csr.ARGUMENT1 + 4 * i]
        await master.write(Csr.STATUS, 0xFFFFFFFF)
        await master.write(0x3C, 0xFFFFFFFF)
        assert await master.read(0x3C) == 0

    simulate(bench)


def test_the_host_sees_hardware_fault_and_page_of_memory():
    async def bench(ctx, dut):
        master = Master(ctx, dut, random.Random(2), 0)
        assert await master.read(Csr.HARDWARE_LOW) == 0x89ABCDEF
        assert await master.read(Csr.HARDWARE_HIGH) == 0x01234567
        await master.write(Csr.MEMORY_LOW, 0x12345678)
        assert await master.read(Csr.MEMORY_LOW) == 0x12345000  # whole pages
        assert await master.read(Csr.FAULT) == 0
        ctx.set(dut.fault, 1)
        assert await master.read(Csr.FAULT) == 1

    simulate(bench, hardware=0x0123456789ABCDEF)


def test_status_shows_error_and_exit_code():
    async def bench(ctx, dut):
        master = Master(ctx, dut, random.Random(1), 0)
        assert await master.read(Csr.STATUS) == 0
        ctx.set(dut.finished, 1)
        ctx.set(dut.error, ErrorCode.PROGRAM_EXIT)
        ctx.set(dut.exit_code, 0xA7)
        assert await master.read(Csr.STATUS) == 0xA700 | ErrorCode.PROGRAM_EXIT << 4 | 2
        ctx.set(dut.finished, 0)
        ctx.set(dut.running, 1)
        ctx.set(dut.error, ErrorCode.NONE)
        ctx.set(dut.exit_code, 0)
        assert await master.read(Csr.STATUS) == 1

    simulate(bench)


def test_start_is_one_cycle_and_only_when_not_running():
    async def bench(ctx, dut):
        master = Master(ctx, dut, random.Random(1), 0)
        starts = 0

        async def write(value):
            nonlocal starts
            ctx.set(dut.bus.awaddr, Csr.CONTROL)
            ctx.set(dut.bus.wdata, value)
            ctx.set(dut.bus.awvalid, 1)
            ctx.set(dut.bus.wvalid, 1)
            ctx.set(dut.bus.bready, 1)
            await ctx.tick()
            ctx.set(dut.bus.awvalid, 0)
            ctx.set(dut.bus.wvalid, 0)
            for _ in range(4):
                starts += ctx.get(dut.start)
                await ctx.tick()

        await write(0)
        await write(2)
        assert starts == 0
        await write(1)
        assert starts == 1
        ctx.set(dut.running, 1)
        await write(1)
        assert starts == 1
        # From the cycle of the start on, before the sequencer has seen it, a program counts as running.
        ctx.set(dut.running, 0)
        ctx.set(dut.finished, 1)
        ctx.set(dut.bus.awvalid, 1)
        ctx.set(dut.bus.wvalid, 1)
        await ctx.tick()
        ctx.set(dut.bus.awvalid, 0)
        ctx.set(dut.bus.wvalid, 0)
        assert ctx.get(dut.start)
        assert await master.read(Csr.STATUS) == 1

    simulate(bench)


def test_counters_run_with_the_program_and_restart_with_it():
    rng = random.Random(3)

    async def bench(ctx, dut):
        master = Master(ctx, dut, rng, 0)
        for _ in range(2):
            await master.write(Csr.CONTROL, 1)
            ctx.set(dut.running, 1)
            busy, ended = [0] * 6, [0] * 6
            for _ in range(50):
                b, e = rng.getrandbits(6), rng.getrandbits(6)
                ctx.set(dut.busy, b)
                ctx.set(dut.ended, e)
                busy = [n + (b >> u & 1) for u, n in enumerate(busy)]
                ended = [n + (e >> u & 1) for u, n in enumerate(ended)]
                await ctx.tick()
            ctx.set(dut.running, 0)
            await ctx.tick().repeat(5)
            assert await master.read(Csr.CYCLES_LOW) == 50
            assert await master.read(Csr.CYCLES_HIGH) == 0
            for u in Unit:
                assert await master.read(Csr.BUSY + 4 * u) == busy[u]
                assert await master.read(Csr.ENDED + 4 * u) == ended[u]

    simulate(bench)


def test_an_answer_waits_for_the_master():
    async def bench(ctx, dut):
        bus = dut.bus
        ctx.set(bus.awaddr, Csr.ARGUMENT1)
        for value, taken in [(5, True), (6, False), (6, False)]:
            ctx.set(bus.wdata, value)
            ctx.set(bus.awvalid, 1)
            ctx.set(bus.wvalid, 1)
            assert ctx.get(bus.awready) == ctx.get(bus.wready) == taken
            await ctx.tick()
            assert ctx.get(bus.bvalid) and ctx.get(dut.arguments[0]) == 5
        ctx.set(bus.bready, 1)
        assert ctx.get(bus.awready)
        await ctx.tick()
        assert ctx.get(bus.bvalid) and ctx.get(dut.arguments[0]) == 6
        ctx.set(bus.awvalid, 0)
        await ctx.tick()
        assert not ctx.get(bus.bvalid)

        ctx.set(bus.arvalid, 1)
        for address, taken in [(Csr.ARGUMENT1, True), (Csr.ARGUMENT2, False), (Csr.ARGUMENT2, False)]:
            ctx.set(bus.araddr, address)
            assert ctx.get(bus.arready) == taken
            await ctx.tick()
            assert ctx.get(bus.rvalid) and ctx.get(bus.rdata) == 6
        ctx.set(bus.rready, 1)
        await ctx.tick()
        assert ctx.get(bus.rvalid) and ctx.get(bus.rdata) == 0

    simulate(bench)
