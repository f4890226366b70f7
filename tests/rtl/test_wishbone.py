"""Wishbone in place of AXI, classic and pipelined, with a peer that hesitates, fails, and checks the rules."""

import random
from collections import deque

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped
from amaranth.sim import Simulator
from axi_bench import read, write

from wordline.rtl.control import Control
from wordline.rtl.isa import Csr
from wordline.rtl.wishbone import SLVERR, Wishbone, WishboneControl, WishboneMemory

BITS = 64
BYTES = BITS // 8


class Memory:
    """A slave: words by address; addresses of `bad` are answered with ``err``.

    Pipelined: takes an access unless it stalls, answers later in order. Classic: answers what it is shown, once.
    """

    def __init__(self, bus, pipelined: bool, rng: random.Random, stall: float, bad=()):
        self.bus, self.pipelined, self.rng, self.stall, self.bad = bus, pipelined, rng, stall, set(bad)
        self.words: dict[int, int] = {}
        self.back_to_back = 0

    def access(self, we: int, address: int, word: int, select: int) -> int:
        old = self.words.get(address, 0)
        if we and address not in self.bad:
            keep = sum(255 << 8 * k for k in range(BYTES) if not select >> k & 1)
            self.words[address] = old & keep | word & ~keep
        return old

    async def serve(self, ctx):
        bus = self.bus
        waiting: deque = deque()  # answers to come: address and word
        held, took_last = None, False
        while True:
            yes, stalls = self.rng.random() >= self.stall, self.rng.random() < self.stall
            if self.pipelined:
                answer = waiting.popleft() if waiting and yes else None
            else:
                answer = (held[1], self.words.get(held[1], 0)) if held and yes else None
            ctx.set(bus.stall, stalls or not self.pipelined)
            ctx.set(bus.ack, answer is not None and answer[0] not in self.bad)
            ctx.set(bus.err, answer is not None and answer[0] in self.bad)
            ctx.set(bus.dat_r, answer[1] if answer else self.rng.getrandbits(BITS))
            *_, cycle, strobe, we, address, word, select = await ctx.tick().sample(
                bus.cyc, bus.stb, bus.we, bus.adr, bus.dat_w, bus.sel)
            offer = (we, address, word, select) if strobe else None
            assert cycle or not (strobe or waiting or answer), "the cycle ends before its answers"
            if held is not None:
                assert offer is not None and (offer == held or not held[0] and offer[:2] == held[:2])
            if self.pipelined:
                taken = offer is not None and not stalls
                if taken:
                    self.back_to_back += took_last
                    waiting.append((offer[1], self.access(*offer)))
                took_last = taken
                held = offer if stalls else None
            else:
                if answer:
                    self.access(*held)
                held = None if answer else offer


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_memory_holds_what_bursts_wrote(pipelined: bool, stall: float):
    rng = random.Random(stall)
    dut = WishboneMemory(data_bits=BITS, address_bits=20, pipelined=pipelined)
    memory = Memory(dut.bus, pipelined, rng, stall, bad=[0x1F00 // BYTES])
    want: dict[int, int] = {}

    async def bench(ctx):
        for _ in range(40):
            n = rng.choice([1, 1, 3, 16])
            address = rng.randrange((0x1000 - n * BYTES) // BYTES + 1) * BYTES
            places = [address + BYTES * i for i in range(n)]
            if rng.random() < 0.5:
                beats = [(rng.getrandbits(BITS), rng.choice([255, rng.getrandbits(8)])) for _ in range(n)]
                for at, (word, strobes) in zip(places, beats):
                    keep = sum(255 << 8 * k for k in range(BYTES) if not strobes >> k & 1)
                    want[at] = want.get(at, 0) & keep | word & ~keep
                assert await write(ctx, dut.axi, rng, address, beats, stall) == 0
            else:
                got = await read(ctx, dut.axi, rng, [(address, n), (address, n)], stall)
                assert got == 2 * [want.get(at, 0) for at in places]
        # An error is that of its beat; a write's is the burst's.
        bad: list[int] = []
        await read(ctx, dut.axi, rng, [(0x1EF0, 4)], stall, bad)
        assert bad == [2]
        assert await write(ctx, dut.axi, rng, 0x1EF0, [(1, 255)] * 4, stall) == SLVERR
        assert await write(ctx, dut.axi, rng, 0x1EF0, [(1, 255)] * 2, stall) == 0
        assert memory.words[0x1EF0 // BYTES] == 1

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(memory.serve, background=True)
    sim.add_testbench(bench)
    sim.run()
    assert len(memory.words) > 40
    if pipelined and not stall:
        assert memory.back_to_back > 100  # a beat a clock


class Registers(wiring.Component):
    """The accelerator's control registers behind Wishbone."""

    def __init__(self, pipelined: bool):
        self.pipelined = pipelined
        super().__init__({"bus": In(Wishbone(data_bits=32, address_bits=6))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = bridge = WishboneControl(pipelined=self.pipelined)
        m.submodules.control = control = Control(0x1122334455667788)
        connect(m, flipped(self.bus), bridge.bus)
        connect(m, bridge.control, control.bus)
        return m


@pytest.mark.parametrize("pipelined", [False, True])
def test_control_registers(pipelined: bool):
    """Written and read at random, with and without pauses; a write of some bytes is an error and changes nothing."""
    rng = random.Random(3)
    dut = Registers(pipelined)

    async def access(ctx, register: int, value: int | None = None, select: int = 15) -> tuple[bool, int]:
        bus = dut.bus
        for name, v in (("cyc", 1), ("stb", 1), ("we", value is not None), ("adr", register >> 2),
                        ("dat_w", value or 0), ("sel", select)):
            ctx.set(getattr(bus, name), v)
        for _ in range(20):
            taken = pipelined and ctx.get(bus.stb) and not ctx.get(bus.stall)
            ended, error, word = ctx.get(bus.ack) or ctx.get(bus.err), bool(ctx.get(bus.err)), ctx.get(bus.dat_r)
            await ctx.tick()
            if taken:
                ctx.set(bus.stb, 0)
            if ended:
                ctx.set(bus.stb, 0)
                if rng.random() < 0.5:
                    ctx.set(bus.cyc, 0)
                    await ctx.tick().repeat(rng.randrange(1, 4))
                return error, word
        raise AssertionError("no answer")

    async def bench(ctx):
        assert await access(ctx, Csr.HARDWARE_LOW) == (False, 0x55667788)
        assert await access(ctx, Csr.HARDWARE_HIGH) == (False, 0x11223344)
        registers = [Csr.ARGUMENT1, Csr.ARGUMENT2, Csr.ARGUMENT3, Csr.WATCHDOG, Csr.PROGRAM_LOW]
        want: dict = {}
        for _ in range(60):
            register = rng.choice(registers)
            if rng.random() < 0.5:
                want[register] = rng.getrandbits(32)
                error, _ = await access(ctx, register, want[register])
                assert not error
            elif register in want:
                assert await access(ctx, register) == (False, want[register])
        error, _ = await access(ctx, Csr.ARGUMENT1, 5, select=3)
        assert error
        if Csr.ARGUMENT1 in want:
            assert await access(ctx, Csr.ARGUMENT1) == (False, want[Csr.ARGUMENT1])

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
