"""Test bench of `rtl.stripe`: each port has a memory of its own that hesitates for itself; the bus must see one."""

import json
import os
import random
from collections import deque

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

PARAMETERS = json.loads(os.environ["STRIPE"])
PORTS, SLICE = PARAMETERS["ports"], PARAMETERS["port_bits"] // 8
BEAT, SIZE = PORTS * SLICE, 4096 * PORTS
BURSTS = 60


class PortMemory:
    """An AXI4 slave of `SIZE / PORTS` bytes: in-order reads, single-beat writes, everything stalled at random."""

    def __init__(self, dut, number: int, stall: float, rng: random.Random):
        self.bytes, self.stall, self.rng = np.zeros(SIZE // PORTS, np.uint8), stall, rng
        self.s = lambda name: getattr(dut, f"ports__{number}__{name}")
        self.beats: deque = deque()  # address, last
        self.addresses: deque = deque()
        self.data: deque = deque()
        self.answers = 0
        self.reads = 0

    def drive(self) -> None:
        """Outputs of the next cycle; what is offered stays."""
        s, hesitates = self.s, lambda: self.rng.random() < self.stall
        for channel in ("ar", "aw", "w"):
            s(f"{channel}ready").value = not hesitates()
        if not self.offers("r") and self.beats and not hesitates():
            address, last = self.beats[0]
            s("rvalid").value, s("rlast").value, s("rid").value, s("rresp").value = 1, last, 0, 0
            s("rdata").value = int.from_bytes(self.bytes[address : address + SLICE].tobytes(), "little")
        if not self.offers("b") and self.answers and not hesitates():
            s("bvalid").value, s("bid").value, s("bresp").value = 1, 0, 0

    def offers(self, channel: str) -> bool:
        return bool(int(self.s(f"{channel}valid").value))

    def step(self) -> None:
        """What this cycle moved, before the edge."""
        s = self.s
        moved = {c: int(s(f"{c}valid").value) and int(s(f"{c}ready").value) for c in ("ar", "aw", "w", "r", "b")}
        if moved["ar"]:
            address, beats = int(s("araddr").value), int(s("arlen").value) + 1
            assert address % SLICE == 0 and address // 4096 == (address + beats * SLICE - 1) // 4096
            assert int(s("arid").value) == 0 and 1 << int(s("arsize").value) == SLICE
            self.beats += [(address + i * SLICE, i == beats - 1) for i in range(beats)]
            self.reads += 1
        if moved["r"]:
            self.beats.popleft()
            s("rvalid").value = 0
        if moved["aw"]:
            assert int(s("awlen").value) == 0
            self.addresses.append(int(s("awaddr").value))
        if moved["w"]:
            self.data.append((int(s("wdata").value), int(s("wstrb").value)))
        if moved["b"]:
            self.answers -= 1
            s("bvalid").value = 0
        while self.addresses and self.data:
            address, (data, strobe) = self.addresses.popleft(), self.data.popleft()
            for i in range(SLICE):
                if strobe >> i & 1:
                    self.bytes[address + i] = data >> 8 * i & 0xFF
            self.answers += 1


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def ports_are_one_wide_memory(dut, stall):
    """Random bursts and writes with strobes; every beat equals the wide memory's, with the ID that asked."""
    rng = random.Random(cocotb.RANDOM_SEED + int(10 * stall))
    memories = [PortMemory(dut, i, stall, rng) for i in range(PORTS)]
    wide = np.frombuffer(rng.randbytes(SIZE), np.uint8).copy()
    for i, memory in enumerate(memories):
        memory.bytes[:] = wide.reshape(-1, PORTS, SLICE)[:, i].reshape(-1)
        for name in ("rvalid", "bvalid", "arready", "awready", "wready"):
            memory.s(name).value = 0
    for name in ("arvalid", "awvalid", "wvalid"):
        getattr(dut, f"bus__{name}").value = 0
    dut.bus__rready.value = dut.bus__bready.value = 1
    dut.bus__awid.value = dut.bus__awlen.value = 0
    dut.bus__wlast.value = 1
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0

    # Reads from the lower half, writes to the upper one, so that the order between them is of no matter.
    beats = SIZE // BEAT
    reads = []
    for _ in range(BURSTS):
        first = rng.randrange(beats // 2)
        reads.append((first, rng.randint(1, min(64, beats // 2 - first)), rng.randrange(2)))
    writes = [(rng.randrange(beats // 2, beats), rng.getrandbits(8 * BEAT), rng.getrandbits(BEAT))
              for _ in range(BURSTS)]
    asked, expected, answered, cycles = deque(reads), deque(), 0, 0
    addresses, data = deque(writes), deque(writes)
    bus = lambda name: getattr(dut, f"bus__{name}")  # noqa: E731
    started = cycles
    while asked or expected or answered < len(writes):
        await RisingEdge(dut.clk)
        cycles += 1
        # The edge's values, as they were before it.
        if int(bus("arvalid").value) and int(bus("arready").value):
            first, n, number = asked.popleft()
            expected += [(first + i, i == n - 1, number) for i in range(n)]
            bus("arvalid").value = 0
        if int(bus("rvalid").value):
            beat, last, number = expected.popleft()
            got = int(bus("rdata").value)
            assert got == int.from_bytes(wide[beat * BEAT : (beat + 1) * BEAT].tobytes(), "little"), beat
            assert (int(bus("rlast").value), int(bus("rid").value)) == (last, number)
        for channel, queue in (("aw", addresses), ("w", data)):
            if int(bus(f"{channel}valid").value) and int(bus(f"{channel}ready").value):
                queue.popleft()
                bus(f"{channel}valid").value = 0
        answered += int(bus("bvalid").value)
        for memory in memories:
            memory.step()
        await cocotb.triggers.FallingEdge(dut.clk)
        for memory in memories:
            memory.drive()
        if asked and rng.random() < 0.9:
            first, n, number = asked[0]
            bus("arvalid").value, bus("araddr").value, bus("arlen").value = 1, first * BEAT, n - 1
            bus("arid").value, bus("arburst").value = number, 1
        if addresses and rng.random() < 0.7:
            bus("awvalid").value, bus("awaddr").value = 1, addresses[0][0] * BEAT
        if data and rng.random() < 0.7:
            bus("wvalid").value, bus("wdata").value, bus("wstrb").value = 1, data[0][1], data[0][2]
    for beat, value, strobe in writes:
        for i in range(BEAT):
            if strobe >> i & 1:
                wide[beat * BEAT + i] = value >> 8 * i & 0xFF
    for i, memory in enumerate(memories):
        assert np.array_equal(memory.bytes, wide.reshape(-1, PORTS, SLICE)[:, i].reshape(-1)), i
        assert memory.reads == BURSTS
    if stall == 0:
        assert cycles - started < 1.25 * sum(n for _, n, _ in reads) + 100  # a beat a cycle
