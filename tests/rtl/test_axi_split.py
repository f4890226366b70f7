"""Several narrow ports behind a wide bus, and the watchdog, in Amaranth's simulator: data, order, rules of AXI4."""

import random
from collections import deque

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped
from amaranth.sim import Simulator

from wordline.rtl.axi import Axi4
from wordline.rtl.axi_guard import AxiGuard
from wordline.rtl.axi_split import GRANULE, AxiSplit

SIZE = 1 << 16


class Memory:
    """Ports of a memory: answers in order per port, hesitates at random, checks what it is asked.

    ``dead`` answers nothing and takes nothing; ``errors`` are addresses whose beats come with SLVERR.
    """

    def __init__(self, port, rng: random.Random, stall: float, data: bytearray, errors=()):
        self.port, self.rng, self.stall, self.data, self.errors = port, rng, stall, data, set(errors)
        self.dead, self.asked, self.written = False, [], []

    async def serve(self, ctx):
        port, size = self.port, len(self.port.rdata) // 8
        reads: deque = deque()
        addresses: deque = deque()
        beats: deque = deque()
        answers = 0
        held = None

        def yes() -> bool:
            return not self.dead and self.rng.random() >= self.stall

        while True:
            ready = {name: yes() for name in ("arready", "awready", "wready")}
            for name, value in ready.items():
                ctx.set(getattr(port, name), value)
            beat = reads[0] if reads and yes() else None
            ctx.set(port.rvalid, beat is not None)
            if beat is not None:
                address, last = beat
                ctx.set(port.rdata, int.from_bytes(self.data[address : address + size], "little"))
                ctx.set(port.rresp, 2 if address in self.errors else 0)
                ctx.set(port.rlast, last)
            answer = answers > 0 and yes()
            ctx.set(port.bvalid, answer)
            ctx.set(port.bresp, 0)
            # What is offered and not taken stays as it is.
            offer = (ctx.get(port.araddr), ctx.get(port.arlen)) if ctx.get(port.arvalid) else None
            if held is not None:
                assert offer == held
            held = offer if offer is not None and not ready["arready"] else None
            moves = {
                "ar": ctx.get(port.arvalid) and ready["arready"], "aw": ctx.get(port.awvalid) and ready["awready"],
                "w": ctx.get(port.wvalid) and ready["wready"],
                "r": beat is not None and ctx.get(port.rready), "b": answer and ctx.get(port.bready),
            }
            if moves["ar"]:
                address, length = ctx.get(port.araddr), ctx.get(port.arlen) + 1
                assert ctx.get(port.arburst) == 1 and 1 << ctx.get(port.arsize) == size and address % size == 0
                assert address // 4096 == (address + length * size - 1) // 4096
                self.asked.append((address, length))
                reads.extend((address + i * size, i == length - 1) for i in range(length))
            if moves["r"]:
                reads.popleft()
            if moves["b"]:
                answers -= 1
            if moves["aw"]:
                addresses.append((ctx.get(port.awaddr), ctx.get(port.awlen) + 1))
            if moves["w"]:
                beats.append((ctx.get(port.wdata), ctx.get(port.wstrb), ctx.get(port.wlast)))
            while addresses and len(beats) >= addresses[0][1]:
                address, length = addresses.popleft()
                for i in range(length):
                    word, strobe, last = beats.popleft()
                    assert last == (i == length - 1)
                    for k in range(size):
                        if strobe >> k & 1:
                            self.data[address + i * size + k] = word >> 8 * k & 255
                self.written.append((address, length))
                answers += 1
            await ctx.tick()


class Both(wiring.Component):
    """Guard, then split, as in `fpga.axi_top`."""

    def __init__(self, wide: int, narrow: int, ports: int):
        self.guard = AxiGuard(data_bits=wide, address_bits=20)
        self.split = AxiSplit(wide=wide, narrow=narrow, ports=ports, address_bits=20)
        super().__init__({"master": In(Axi4(data_bits=wide, address_bits=20))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.guard, m.submodules.split = self.guard, self.split
        connect(m, flipped(self.master), self.guard.master)
        connect(m, self.guard.memory, self.split.master)
        return m


def simulate(dut, memories, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    # In every cycle the ports' readiness first: the bus's depends on it in the same cycle.
    for memory in memories:
        sim.add_testbench(memory.serve, background=True)
    sim.add_testbench(bench)
    sim.run()


async def read_all(ctx, bus, requests, limit=40000, before=lambda cycle: None):
    """Offer bursts as fast as they are taken; the beats that come, as (id, data, resp, last).

    `before` is called with each cycle's number.
    """
    waiting, got, need = deque(requests), [], sum(length for _, length, _ in requests)
    ctx.set(bus.rready, 1)
    for cycle in range(limit):
        before(cycle)
        if waiting:
            address, length, identity = waiting[0]
            ctx.set(bus.araddr, address)
            ctx.set(bus.arlen, length - 1)
            ctx.set(bus.arid, identity)
        ctx.set(bus.arvalid, bool(waiting))
        if waiting and ctx.get(bus.arready):
            waiting.popleft()
        if ctx.get(bus.rvalid):
            got.append((ctx.get(bus.rid), ctx.get(bus.rdata), ctx.get(bus.rresp), ctx.get(bus.rlast)))
        await ctx.tick()
        if len(got) == need:
            ctx.set(bus.arvalid, 0)
            return got
    raise AssertionError(f"{len(got)} of {need} beats came")


def random_bursts(rng: random.Random, size: int, count: int):
    bursts = []
    for _ in range(count):
        address = rng.randrange(SIZE // size) * size
        length = min(rng.choice([1, 2, 16, 64, rng.randint(1, 64)]), (4096 - address % 4096) // size)
        bursts.append((address, length, rng.randint(0, 1)))
    return bursts


@pytest.mark.parametrize("wide,narrow,ports,stall", [
    (512, 128, 4, 0.0), (512, 128, 4, 0.5), (256, 128, 2, 0.3), (128, 128, 1, 0.3), (64, 64, 1, 0.0)])
def test_reads_come_in_order_and_whole(wide, narrow, ports, stall):
    rng = random.Random(wide + ports)
    data = bytearray(rng.randbytes(SIZE))
    dut = Both(wide, narrow, ports)
    memories = [Memory(port, random.Random(i), stall, data) for i, port in enumerate(dut.split.ports)]
    size = wide // 8
    bursts = random_bursts(rng, size, 25)

    async def bench(ctx):
        got = await read_all(ctx, dut.master, bursts)
        want = [(identity, int.from_bytes(data[at : at + size], "little"), 0, k == length - 1)
                for address, length, identity in bursts
                for k, at in enumerate(range(address, address + length * size, size))]
        assert got == want

    simulate(dut, memories, bench)
    if ports > 1:
        assert all(memory.asked for memory in memories)
    for i, memory in enumerate(memories):
        assert all(address // GRANULE % ports == i for address, _ in memory.asked)


def test_all_ports_together_bring_a_wide_beat_a_cycle():
    dut = Both(512, 128, 4)
    memories = [Memory(port, random.Random(i), 0.0, bytearray(SIZE)) for i, port in enumerate(dut.split.ports)]

    async def bench(ctx):
        await read_all(ctx, dut.master, [(4096 * i, 64, 1) for i in range(12)], limit=12 * 64 + 100)

    simulate(dut, memories, bench)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_writes_reach_their_bytes(stall):
    rng = random.Random(5)
    data = bytearray(SIZE)
    want = bytearray(SIZE)
    dut = Both(512, 128, 4)
    memories = [Memory(port, random.Random(i), stall, data) for i, port in enumerate(dut.split.ports)]

    async def bench(ctx):
        bus = dut.master
        ctx.set(bus.bready, 1)
        answers = 0
        for _ in range(30):
            address, word = rng.randrange(SIZE // 64) * 64, rng.randbytes(64)
            strobe = rng.getrandbits(64)
            for k in range(64):
                if strobe >> k & 1:
                    want[address + k] = word[k]
            ctx.set(bus.awaddr, address)
            ctx.set(bus.wdata, int.from_bytes(word, "little"))
            ctx.set(bus.wstrb, strobe)
            ctx.set(bus.wlast, 1)
            pending = {"aw", "w"}
            while pending:
                for channel in ("aw", "w"):
                    ctx.set(getattr(bus, f"{channel}valid"), channel in pending)
                pending -= {c for c in set(pending) if ctx.get(getattr(bus, f"{c}ready"))}
                answers += ctx.get(bus.bvalid)
                await ctx.tick()
            ctx.set(bus.awvalid, 0)
            ctx.set(bus.wvalid, 0)
        for _ in range(400):
            answers += ctx.get(bus.bvalid)
            await ctx.tick()
        assert answers == 30 and data == want

    simulate(dut, memories, bench)


def test_an_error_stays_with_its_beat():
    dut = Both(512, 128, 4)
    memories = [Memory(port, random.Random(i), 0.2, bytearray(SIZE), errors=[64 * 3 + 16])
                for i, port in enumerate(dut.split.ports)]

    async def bench(ctx):
        got = await read_all(ctx, dut.master, [(0, 8, 0)])
        assert [resp for _, _, resp, _ in got] == [0, 0, 0, 2, 0, 0, 0, 0]

    simulate(dut, memories, bench)


@pytest.mark.parametrize("when", [0, 7, 40])
def test_a_silent_memory_is_given_up_and_taken_back(when):
    """The memory falls silent: errors instead of hanging; it wakes up, sends what it owed: everything works again."""
    data = bytearray(random.Random(1).randbytes(SIZE))
    dut = Both(128, 128, 1)
    memory = Memory(dut.split.ports[0], random.Random(3), 0.0, data)

    async def bench(ctx):
        bus, guard = dut.master, dut.guard
        ctx.set(guard.limit, 50)
        ctx.set(bus.bready, 1)

        def silence(cycle):
            memory.dead = cycle >= when

        got = await read_all(ctx, bus, [(4096 * i, 32, i & 1) for i in range(4)], before=silence)
        assert any(resp == 2 for _, _, resp, _ in got)
        assert ctx.get(guard.expired)
        # A program that begins now ends with errors too, reads and writes.
        late = await read_all(ctx, bus, [(0, 4, 1)])
        assert all(resp == 2 for _, _, resp, _ in late)
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        await ctx.tick()
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        answers = [ctx.get(bus.bvalid) and ctx.get(bus.bresp)]
        for _ in range(5):
            await ctx.tick()
            answers.append(ctx.get(bus.bvalid) and ctx.get(bus.bresp))
        assert 2 in answers
        # It wakes up: what it still sends is nobody's.
        memory.dead = False
        ctx.set(guard.idle, 1)
        for _ in range(600):
            assert not ctx.get(bus.rvalid)
            await ctx.tick()
        assert not ctx.get(guard.expired)
        got = await read_all(ctx, bus, [(256, 3, 0)])
        assert [value for _, value, _, _ in got] == [
            int.from_bytes(data[at : at + 16], "little") for at in (256, 272, 288)]

    simulate(dut, [memory], bench)
    assert when == 0 or memory.asked


def test_a_slow_memory_is_left_in_peace():
    data = bytearray(random.Random(1).randbytes(SIZE))
    dut = Both(128, 128, 1)
    memory = Memory(dut.split.ports[0], random.Random(3), 0.9, data)

    async def bench(ctx):
        ctx.set(dut.guard.limit, 200)
        got = await read_all(ctx, dut.master, [(0, 32, 0), (512, 32, 1)])
        assert all(resp == 0 for _, _, resp, _ in got) and not ctx.get(dut.guard.expired)

    simulate(dut, [memory], bench)
