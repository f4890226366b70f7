"""The four steps of the ladder compute the same dot products, exactly."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from wordline.pe.lut import folded
from wordline.pe.lut_ladder import Step, Table, TileColumn, table_layout

K, ACT_BITS, ROWS = 4, 8, 2


class Tile(wiring.Component):
    """A column behind its tables; in step 4 behind tables that a maker of step 3 has made."""

    def __init__(self, step: Step, weight_bits: int):
        self.step = step
        self.column = TileColumn(step, rows=ROWS, k=K, act_bits=ACT_BITS, weight_bits=weight_bits, acc_bits=24)
        members = {name: self.column.signature.members[name] for name in ("valid", "bits", "plane", "top", "first")}
        super().__init__(members | {"load": In(1), "acts": In(K * ACT_BITS * ROWS),
                                    "acc": Out(self.column.acc.shape())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.column = column = self.column
        for r in range(ROWS):
            make = Step.FOLDED if self.step is Step.SHARED else self.step
            m.submodules[f"table_{r}"] = table = Table(make, k=K, act_bits=ACT_BITS)
            m.d.comb += [table.load.eq(self.load), table.acts.eq(self.acts.word_select(r, K * ACT_BITS))]
            if self.step is Step.SHARED:
                m.submodules[f"held_{r}"] = held = Table(Step.SHARED, k=K, act_bits=ACT_BITS)
                m.d.comb += [held.load.eq(1), held.entries.eq(table.table)]
                table = held
            m.d.comb += column.tables[r].eq(table.table)
        m.d.comb += [getattr(column, name).eq(getattr(self, name)) for name in
                     ("valid", "bits", "plane", "top", "first")]
        m.d.comb += self.acc.eq(column.acc)
        return m


@pytest.mark.parametrize("weight_bits", [1, 2, 4])
@pytest.mark.parametrize("step", Step)
def test_dot_products(step, weight_bits):
    rng = np.random.default_rng(1)
    dut = Tile(step, weight_bits)

    async def bench(ctx):
        for n in range(12):
            groups = int(rng.choice([1, 5]))
            acts = rng.integers(-128, 128, (ROWS, groups * K))
            half = 1 << (weight_bits - 1)
            weights = rng.integers(-half, half, groups * K)
            if n < 2:  # the ends of the range
                acts[:], weights[:] = -128, -half if n else half - 1
            offset = weights + half  # the unsigned code of the paper
            for g in range(groups):
                at = slice(g * K, (g + 1) * K)
                packed = [int(a) & 0xFF for row in acts for a in row[at]]
                ctx.set(dut.acts, sum(v << 8 * i for i, v in enumerate(packed)))
                ctx.set(dut.load, 1)
                ctx.set(dut.valid, 0)
                ctx.set(dut.first, 1)  # without valid nothing may happen
                await ctx.tick()
                ctx.set(dut.load, 0)
                await ctx.tick()
                for plane in range(weight_bits):
                    codes = weights[at] if step is Step.CONVENTIONAL else offset[at]
                    bits = sum((int(c) >> plane & 1) << i for i, c in enumerate(codes))
                    index, negate = folded(bits, K)
                    ctx.set(dut.bits, index | negate << (K - 1) if step >= Step.FOLDED else bits)
                    ctx.set(dut.valid, 1)
                    ctx.set(dut.plane, plane)
                    ctx.set(dut.top, plane == weight_bits - 1)
                    ctx.set(dut.first, g == 0 and plane == 0)
                    await ctx.tick()
            ctx.set(dut.valid, 0)
            dots, sums = acts @ weights, acts.sum(1)
            # 2q - (2^W - 1) of the unsigned code q is 2w + 1 of the signed weight w.
            want = dots if step is Step.CONVENTIONAL else 2 * dots + sums
            assert [ctx.get(dut.acc[r]) for r in range(ROWS)] == [int(v) for v in want]

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_half_the_table_is_not_stored():
    sizes = [len(table_layout(step, K, ACT_BITS).const(None).as_value()) for step in Step]
    assert sizes == [16 * 10, 8 * 11, 8 * 11, 8 * 11]
