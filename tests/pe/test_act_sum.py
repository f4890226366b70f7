"""Activation sums: right, at the declared latency, and there with every dot product of every family."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from wordline.pe.act_sum import ActSum
from wordline.pe.datatypes import KIND_BITS, WeightKind
from wordline.pe.family import FAMILIES, CompleteColumn, family


def random_groups(rng, rows, lanes, act_bits, sizes, n):
    top = 1 << (act_bits - 1)
    groups = [rng.integers(-top, top, (rows, int(rng.choice(sizes)) * lanes)) for _ in range(n)]
    groups[1] = np.full((rows, max(sizes) * lanes), -top)
    return groups


@pytest.mark.parametrize("lanes", [1, 2, 5, 8])
def test_sums_appear_at_the_declared_latency(lanes):
    rows, act_bits, sizes = 2, 4, [1, 2, 3]
    unit = ActSum(rows=rows, lanes=lanes, act_bits=act_bits, group_max=3 * lanes)
    groups = random_groups(np.random.default_rng(lanes), rows, lanes, act_bits, sizes, 30)
    ended, seen = [], []
    clock = 0

    async def drive(ctx):
        nonlocal clock
        for g, acts in enumerate(groups):
            steps = acts.shape[1] // lanes
            for s in range(steps):
                part = acts[:, s * lanes : (s + 1) * lanes]
                ctx.set(unit.steps.payload.acts, [[int(v) for v in row] for row in part])
                ctx.set(unit.steps.payload.last, s == steps - 1)
                ctx.set(unit.steps.valid, 1)
                if s == steps - 1:
                    ended.append(clock)
                await ctx.tick()
                clock += 1
            ctx.set(unit.steps.valid, 0)
            ctx.set(unit.steps.payload.last, 1)  # means nothing without valid
            if g % 3 == 0:
                await ctx.tick()
                clock += 1

    async def check(ctx):
        ctx.set(unit.xsum.ready, 1)
        cycle = 0
        while len(seen) < len(groups):
            if ctx.get(unit.xsum.valid):
                got = [ctx.get(unit.xsum.payload[r]) for r in range(rows)]
                assert got == list(unit.reference(groups[len(seen)]))
                seen.append(cycle)
            await ctx.tick()
            cycle += 1
            assert cycle < 1000

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.add_testbench(check)
    sim.run()
    assert [b - a for a, b in zip(ended, seen, strict=True)] == [unit.latency] * len(groups)


@pytest.mark.parametrize("take", [1.0, 0.3])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sum_is_there_with_every_dot_product(name, take):
    rows, lanes, act_bits = 2, 4, 8
    kinds = [WeightKind.INT2, WeightKind.INT4, WeightKind.INT8]
    shape = {"rows": rows, "lanes": lanes, "act_bits": act_bits, "group_max": 3 * lanes}
    pe, unit = family(name)(**shape, kinds=frozenset(kinds)), ActSum(**shape)
    column = CompleteColumn(pe)
    assert all(pe.timing(kind, lanes, act_bits).latency >= unit.latency for kind in kinds)
    m = Module()
    m.submodules.column, m.submodules.unit = column, unit
    m.d.comb += [
        unit.steps.valid.eq(column.acts.valid & column.acts.ready),
        unit.steps.payload.acts.eq(column.acts.payload),
        unit.steps.payload.last.eq(column.weights.payload.last),
        unit.xsum.ready.eq(column.dots.valid & column.dots.ready),
    ]
    rng = np.random.default_rng(7)
    groups = random_groups(rng, rows, lanes, act_bits, [1, 2, 3], 40)
    seen = 0

    async def drive(ctx):
        for acts in groups:
            kind = kinds[rng.integers(len(kinds))]
            for s in range(0, acts.shape[1], lanes):
                ctx.set(column.acts.payload, [[int(v) for v in row[s : s + lanes]] for row in acts])
                codes = [int(c) for c in rng.integers(0, 1 << KIND_BITS[kind], lanes)]
                ctx.set(column.weights.payload, {"codes": codes, "kind": kind, "select": 0,
                                                 "last": s + lanes == acts.shape[1]})
                ctx.set(column.acts.valid, 1)
                ctx.set(column.weights.valid, 1)
                await ctx.tick().until(column.acts.ready)
        ctx.set(column.acts.valid, 0)
        ctx.set(column.weights.valid, 0)

    async def check(ctx):
        nonlocal seen
        dice = np.random.default_rng(8)
        for _ in range(10_000):
            ready = dice.random() < take
            ctx.set(column.dots.ready, ready)
            if ctx.get(column.dots.valid) and ready:
                assert ctx.get(unit.xsum.valid), "the sum came after the dot product"
                got = [ctx.get(unit.xsum.payload[r]) for r in range(rows)]
                assert got == list(unit.reference(groups[seen])), f"group {seen}"
                seen += 1
                if seen == len(groups):
                    return
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.add_testbench(check)
    sim.run()
    assert seen == len(groups)
