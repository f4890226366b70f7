"""The SDRAM controller against a chip that checks every timing, in Amaranth's simulator."""

import random
from dataclasses import replace

import pytest
from amaranth.sim import Simulator
from axi_bench import read, write
from sdram_model import SdramModel

from wordline.rtl.sdram import BEAT, Command, SdramController, SdramTiming
from wordline.sim.dram_devices import DEVICES

SDR = DEVICES["sdr-133"]
STARTUP = 40
BYTES = BEAT // 8


def device_of(timing: SdramTiming):
    """The same numbers as a preset of `dram_devices`."""
    return replace(SDR, tRCD=timing.tRCD, tRP=timing.tRP, tRAS=timing.tRAS, tRC=timing.tRC, tRRD_S=timing.tRRD,
                   tRFC=timing.tRFC, tWR=timing.tWR, CL=timing.CL, tREFI=timing.tREFI)


TIMINGS = {"sdr-133": SdramTiming.of(SDR, startup=STARTUP)} | {
    f"{mhz} MHz": replace(SdramTiming.at(mhz), startup=STARTUP) for mhz in (50, 100, 133)}


def simulate(timing: SdramTiming, bench, device=None):
    """Runs `bench(ctx, controller, chip)`; the chip."""
    dut = SdramController(timing, address_bits=26)
    chip = SdramModel(dut.pins, device or device_of(timing), startup=STARTUP)
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(chip.serve, background=True)

    async def run(ctx):
        await bench(ctx, dut, chip)

    sim.add_testbench(run)
    sim.run()
    return chip


@pytest.mark.parametrize("name", TIMINGS)
@pytest.mark.parametrize("stall", [0.0, 0.6])
def test_random_bursts_find_what_was_written(name: str, stall: float):
    """Over all banks and some rows, so that rows are left often; strobes; refreshes in between."""
    rng = random.Random(stall)
    timing = TIMINGS[name]
    rows = [rng.randrange(1 << timing.row_bits) for _ in range(3)]
    want: dict[int, int] = {}  # beat address -> 64 bits

    async def bench(ctx, dut, chip):
        for _ in range(60):
            row, bank = rng.choice(rows), rng.randrange(4)
            column = rng.randrange(0, 1 << timing.column_bits, 4)
            address = ((row << 2 | bank) << timing.column_bits | column) << 1
            n = min(rng.choice([1, 1, 2, 7, 20]), (4096 - address % 4096) // BYTES)
            places = [address + BYTES * i for i in range(n)]
            if rng.random() < 0.5:
                beats = [(rng.getrandbits(64), rng.choice([255, 255, rng.getrandbits(8)])) for _ in range(n)]
                for at, (word, strobes) in zip(places, beats):
                    keep = sum(255 << 8 * k for k in range(8) if not strobes >> k & 1)
                    want[at] = want.get(at, 0) & keep | word & ~keep
                await write(ctx, dut.axi, rng, address, beats, stall)
            else:
                got = await read(ctx, dut.axi, rng, [(address, n)], stall)
                assert got == [want.get(at, 0) for at in places]
        for at, word in want.items():
            assert await read(ctx, dut.axi, rng, [(at, 1)], stall) == [word]

    chip = simulate(timing, bench)
    assert chip.counts[Command.READ] > 100 and chip.counts[Command.WRITE] > 100 and chip.refreshed


def test_reads_in_a_row_use_the_bus_well_and_refreshes_stay_in_time():
    """16 KB: a row of 1024 bytes costs tRP + tRCD and the pipeline, a refresh all rows."""
    timing = TIMINGS["sdr-133"]
    cycles = 0

    async def bench(ctx, dut, chip):
        nonlocal cycles
        while not ctx.get(dut.ready):
            await ctx.tick()
        begin = chip.now
        await read(ctx, dut.axi, random.Random(1), [(512 * i, 64) for i in range(32)], 0.0)
        cycles = chip.now - begin

    chip = simulate(timing, bench)
    words = 32 * 64 * 4
    assert len(chip.refreshed) == pytest.approx(cycles / timing.tREFI, abs=1)
    assert 0.97 < words / cycles < 1, words / cycles


def test_refreshes_come_without_requests_too():
    timing = TIMINGS["sdr-133"]

    async def bench(ctx, dut, chip):
        await ctx.tick().repeat(3 * timing.tREFI)

    assert len(simulate(timing, bench).refreshed) >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the stopped simulator's generators
@pytest.mark.parametrize("field,change", [("tRCD", 1), ("tRP", 1), ("tRAS", 2), ("tRC", 2), ("tRRD_S", 5), ("tRFC", 2),
                                          ("tWR", 3), ("CL", -1), ("tREFI", -500)])
def test_a_chip_that_needs_more_objects(field: str, change: int):
    """The model checks each of them: with a slower chip the same requests fail.

    What other constraints hide for a clock or two is changed by more.
    """
    timing = TIMINGS["sdr-133"]

    async def bench(ctx, dut, chip):
        rng = random.Random(2)
        row = 1 << timing.column_bits + 3
        for i in range(20):
            # The same bank and another row; then another bank.
            await write(ctx, dut.axi, rng, i * row, [(i, 255)], 0.0)
            assert await read(ctx, dut.axi, rng, [(i * row, 1)], 0.0) == [i]
            await write(ctx, dut.axi, rng, i * row + 8, [(i, 255)], 0.0)
            odd = (2 * i + 1) * row
            await read(ctx, dut.axi, rng, [(2 * i * row, 1), (odd, 1), (odd + 1024, 1)], 0.0)
        await ctx.tick().repeat(timing.tREFI)

    simulate(timing, bench)
    with pytest.raises(AssertionError):
        simulate(timing, bench, replace(SDR, **{field: getattr(SDR, field) + change}))


def test_the_boards_preset_suits_the_simulators_device():
    """At the device's clock no time is shorter than the DRAM model's."""
    ours, theirs = SdramTiming.at(133.3333), SdramTiming.of(SDR, startup=0)
    assert ours.size == theirs.size == SDR.size == 32 << 20
    for field in ("tRCD", "tRP", "tRAS", "tRC", "tRRD", "tRFC", "tWR", "CL"):
        assert getattr(theirs, field) <= getattr(ours, field) <= getattr(theirs, field) + 1, field
    assert ours.tREFI == theirs.tREFI
