# amaranth: UnusedElaboratable=no
"""Group dequantiser against integer arithmetic, at full rate, with the latency it declares."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from wordline.pe.dequant import GroupDequant, bits_per_cycle


@pytest.mark.parametrize("rate", [1, 2, 4, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("floating", [False, True])
def test_scales_groups_at_full_rate(rate, asymmetric, floating):
    unit = GroupDequant(rows=2, dot_bits=20, sum_bits=14, rate=rate, asymmetric=asymmetric, floating=floating)
    rng = np.random.default_rng(rate)
    n = 60
    dot = rng.integers(-(1 << 19), 1 << 19, (n, 2))
    xsum = rng.integers(-(1 << 13), 1 << 13, (n, 2))
    scale, zero = rng.integers(0, 256, n), rng.integers(-128, 128, n)
    # With small floats, integers in between.
    is_float = rng.integers(0, 2, n).astype(bool) & floating
    scale = np.where(is_float, scale & 127, scale)
    dot[0], xsum[0], scale[0], zero[0] = -(1 << 19), (1 << 13) - 1, 255, -128
    dot[1], xsum[1], scale[1], zero[1] = (1 << 19) - 1, -(1 << 13), 255, -128
    starts, dones = [], []
    gaps = np.where(np.arange(n) < n // 2, 0, rng.integers(0, 4, n))  # full rate, then pauses
    clock = 0

    async def drive(ctx):
        nonlocal clock
        for i in range(n):
            ctx.set(unit.start, 1)
            ctx.set(unit.dot, [int(v) for v in dot[i]])
            ctx.set(unit.xsum, [int(v) for v in xsum[i]])
            ctx.set(unit.scale, int(scale[i]))
            ctx.set(unit.float_scale, int(is_float[i]))
            ctx.set(unit.zero, int(zero[i]))
            ctx.set(unit.tag, i & 3)
            starts.append(clock)
            await ctx.tick()
            ctx.set(unit.start, 0)
            ctx.set(unit.dot, [0, 0])
            wait = 8 // rate - 1 + int(gaps[i])
            if wait:
                await ctx.tick().repeat(wait)
            clock += 1 + wait

    async def check(ctx):
        for cycle in range(n * (8 // rate + 2) + 80):
            if ctx.get(unit.done):
                i = len(dones)
                want = unit.reference(dot[i], xsum[i], scale[i], zero[i] if asymmetric else 0, bool(is_float[i]))
                assert [ctx.get(unit.value[r]) for r in range(2)] == list(want)
                assert ctx.get(unit.tag_out) == i & 3
                dones.append(cycle)
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.add_testbench(check)
    sim.run()
    assert [b - a for a, b in zip(starts, dones, strict=True)] == [unit.latency] * n


def test_other_rates_are_refused():
    with pytest.raises(ValueError, match="rate must be 1, 2, 4 or 8 bits per cycle, not 3"):
        GroupDequant(rows=1, dot_bits=20, sum_bits=14, rate=3, asymmetric=False)


def test_rate_keeps_up_with_the_shortest_group():
    # BitMoD's own case: groups of 128, 4 lanes, 2 terms take 64 cycles; one bit per cycle is enough.
    assert bits_per_cycle(128 // 4 * 2) == 1
    assert [bits_per_cycle(c) for c in (1, 2, 3, 4, 7, 8)] == [8, 4, 4, 2, 2, 1]
