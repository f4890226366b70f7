"""The self-testing PE array, at its serial port, bit by bit."""

import pytest
from amaranth.sim import Simulator

from wordline.fpga.pe_selftest import ArrayTest, PeSelfTest

DIVISOR = 3
TESTS = [
    ArrayTest("mac", 1, 2, 4, 8, ("INT8", "INT4", "FP4"), groups=12),
    ArrayTest("bit_serial", 1, 2, 8, 8, ("FP4", "INT8"), groups=8),
    ArrayTest("lut", 2, 1, 8, 8, ("INT4", "INT2"), groups=8),
]


def printed(top: PeSelfTest) -> str:
    """The line that comes after a byte was sent."""
    got = bytearray()

    async def bench(ctx):
        ctx.set(top.rx, 1)
        await ctx.tick().repeat(3)
        for bit in [0, 0, 1, 1, 1, 0, 1, 0, 0, 1]:
            ctx.set(top.rx, bit)
            await ctx.tick().repeat(DIVISOR)
        while not got.endswith(b"\n"):
            await ctx.negedge(top.tx)
            await ctx.tick().repeat(DIVISOR + DIVISOR // 2)
            byte = 0
            for i in range(8):
                byte |= ctx.get(top.tx) << i
                await ctx.tick().repeat(DIVISOR)
            assert ctx.get(top.tx)
            got.append(byte)

    sim = Simulator(top)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run_until(0.05)
    return got.decode()


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.title)
def test_a_key_brings_the_line_that_the_reference_says(test: ArrayTest):
    assert printed(PeSelfTest(test, divisor=DIVISOR)) == test.expected_line()


def test_a_wrong_sum_is_counted():
    test = TESTS[0]
    sums = test.sums.copy()
    sums[[3, 7], 1, 0] ^= 1
    line = printed(PeSelfTest(test, divisor=DIVISOR, sums=sums))
    assert line == test.expected_line().replace("0000 wrong", "0002 wrong")
