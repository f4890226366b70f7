"""Queues and semaphores against a model that is stepped with them, cycle by cycle."""

import random

import pytest
from amaranth.sim import Simulator

from wordline.compiler.asm import encode
from wordline.rtl.dispatch import IN_FLIGHT, QUEUE_DEPTH, Dispatch
from wordline.rtl.isa import Unit

UNITS = range(5)


class Model:
    """What `Dispatch` holds, in lists."""

    def __init__(self):
        self.queues = [[] for _ in UNITS]
        self.flying = [[] for _ in UNITS]  # signal masks of what has started
        self.count = {(p, u): 0 for p in range(6) for u in range(6)}

    def granted(self, unit, wait):
        return all(self.count[p, unit] for p in range(6) if wait >> p & 1)

    def valid(self, unit):
        queue = self.queues[unit]
        return bool(queue) and len(self.flying[unit]) < IN_FLIGHT and self.granted(unit, queue[0]["wait"])

    def step(self, pushed, starts, dones, control):
        """One cycle: what was queued, which units started and ended, CONTROL's masks or None."""
        takes = [(u, self.queues[u].pop(0)) for u in starts]
        gives = [(u, self.flying[u].pop(0)) for u in dones]
        for u, instruction in takes:
            self.flying[u].append(instruction["signal"])
        if control:
            takes.append((5, control))
            gives.append((5, control["signal"]))
        if pushed:
            self.queues[pushed["unit"]].append(pushed)
        for unit, instruction in takes:
            for p in range(6):
                self.count[p, unit] -= instruction["wait"] >> p & 1
        for unit, mask in gives:
            for u in range(6):
                self.count[unit, u] += mask >> u & 1
        return any(count > 255 for count in self.count.values())


def simulate(dut, bench):
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


@pytest.mark.parametrize("seed,slow", [(1, 0.2), (2, 0.6)])
def test_every_cycle_against_the_model(seed, slow):
    rng = random.Random(seed)
    dut = Dispatch()
    counts = {"start": 0, "full": 0, "blocked": 0, "overlap": 0}

    def mask(density):
        return sum((rng.random() < density) << i for i in range(6))

    async def bench(ctx):
        model = Model()
        pushed, promised = None, dict(model.count)
        for _ in range(1500):
            if pushed is None and rng.random() < 0.9:
                # It waits only for what was signalled, or queued with a signal, before it.
                unit = rng.choice([0, 1, 1, 1, 1, 2, 2, 3, 4])
                wait = sum(1 << p for p in range(6) if promised[p, unit] > 0 and rng.random() < 0.4)
                pushed = {"unit": unit, "wait": wait, "signal": mask(0.15)}
                for other in range(6):
                    promised[other, unit] -= wait >> other & 1
                    promised[unit, other] += pushed["signal"] >> other & 1
                word = encode(Unit(pushed["unit"]), {"wait": pushed["wait"], "signal": pushed["signal"]})
                pushed["word"] = word | rng.getrandbits(240) << 16
                ctx.set(dut.queue.payload.as_value(), pushed["word"])
            ctx.set(dut.queue.valid, pushed is not None)
            control = {"wait": mask(0.3), "signal": mask(0.1)}
            ctx.set(dut.control_wait, control["wait"])
            ctx.set(dut.control_signal, control["signal"])
            granted = model.granted(Unit.CONTROL, control["wait"])
            assert ctx.get(dut.control_granted) == granted
            take = granted and rng.random() > slow
            ctx.set(dut.control_take, take)
            starts, dones = [], []
            for u in UNITS:
                port = dut.units[u]
                # Only STREAM overlaps instructions.
                ready = rng.random() > slow and (u == Unit.STREAM or not model.flying[u])
                done = bool(model.flying[u]) and rng.random() < 0.4
                ctx.set(port.instruction.ready, ready)
                ctx.set(port.done, done)
                assert ctx.get(port.instruction.valid) == model.valid(u)
                if model.valid(u):
                    assert ctx.get(port.instruction.payload) == model.queues[u][0]["word"]
                    starts += [u] * ready
                dones += [u] * done
                counts["blocked"] += bool(model.queues[u]) and not model.valid(u)
                counts["overlap"] += len(model.flying[u]) > 1
            busy = sum(bool(model.flying[u]) << u for u in UNITS)
            assert ctx.get(dut.busy) == busy | take << 5
            assert ctx.get(dut.idle) == (not busy and not any(model.queues))
            assert ctx.get(dut.started) == sum(1 << u for u in starts) | take << 5
            assert ctx.get(dut.ended) == sum(1 << u for u in dones) | take << 5
            accepted = None
            if pushed is not None:
                room = len(model.queues[pushed["unit"]]) < QUEUE_DEPTH
                assert ctx.get(dut.queue.ready) == room
                counts["full"] += not room
                if room:
                    accepted, pushed = pushed, None
            counts["start"] += len(starts)
            for u in range(6) if take else ():
                promised[5, u] += control["signal"] >> u & 1
            overflow = model.step(accepted, starts, dones, control if take else None)
            assert ctx.get(dut.overflow) == overflow
            assert not overflow
            await ctx.tick()

    simulate(dut, bench)
    assert min(counts.values()) > 30, counts


def test_counter_overflows_at_the_256th_signal_unless_one_is_taken():
    dut = Dispatch()

    async def bench(ctx):
        ctx.set(dut.control_signal, 1 << Unit.STORE | 1 << Unit.CONTROL)
        ctx.set(dut.control_take, 1)
        for _ in range(255):
            assert not ctx.get(dut.overflow)
            await ctx.tick()
        assert ctx.get(dut.overflow)
        ctx.set(dut.control_signal, 1 << Unit.CONTROL)
        assert ctx.get(dut.overflow)
        ctx.set(dut.control_wait, 1 << Unit.CONTROL)
        assert not ctx.get(dut.overflow)

    simulate(dut, bench)


def test_flush_empties_queues_and_counters():
    dut = Dispatch()

    async def bench(ctx):
        ctx.set(dut.queue.payload.as_value(), encode(Unit.VECTOR, {"wait": 1 << Unit.CONTROL}))
        ctx.set(dut.queue.valid, 1)
        ctx.set(dut.units[Unit.VECTOR].instruction.ready, 1)
        await ctx.tick().repeat(QUEUE_DEPTH)
        ctx.set(dut.queue.valid, 0)
        ctx.set(dut.control_signal, 1 << Unit.VECTOR)
        ctx.set(dut.control_take, 1)
        await ctx.tick()
        ctx.set(dut.control_take, 0)
        assert ctx.get(dut.units[Unit.VECTOR].instruction.valid)
        ctx.set(dut.flush, 1)
        for _ in range(QUEUE_DEPTH):
            assert not ctx.get(dut.units[Unit.VECTOR].instruction.valid)
            assert not ctx.get(dut.idle)
            await ctx.tick()
        assert ctx.get(dut.idle)
        ctx.set(dut.flush, 0)
        ctx.set(dut.queue.valid, 1)
        await ctx.tick().repeat(2)
        assert not ctx.get(dut.units[Unit.VECTOR].instruction.valid)

    simulate(dut, bench)
