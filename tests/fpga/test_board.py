"""A board's circuit: memory, tokens, serial port; and what a build leaves behind."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from amaranth.build.run import BuildPlan
from amaranth.hdl import Module
from amaranth.sim import Simulator

from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.fpga import build
from wordline.fpga.block_memory import BlockMemory, Layout
from wordline.fpga.boards import BOARDS
from wordline.fpga.host import BytePairs
from wordline.fpga.uart import UartReceiver, UartTransmitter
from wordline.rtl.config import load_config
from wordline.sim.functional import FunctionalMachine

BOARD = BOARDS["ulx3s"]


def test_byte_pairs_make_the_tokenizers_tokens():
    model = load_model("austen")
    pairs = BytePairs.read(model.folder)
    held_out = (model.folder / "heldout.txt").read_text()
    lines = [line for line in held_out.split("\n") if line.isascii() and line and "'" not in line][:200]
    assert len(lines) > 30
    for line in lines:
        ids = pairs.encode(line.encode())
        assert ids == model.tokenizer.encode(line).ids, line
        assert b"".join(pairs.decode(i) for i in ids) == line.encode()


def test_the_image_fits_its_blocks():
    """Every byte is in the rows or in the ninth bits, and 22 blocks would not do."""
    layout = Layout.of(420096, 16896, 69632, [])
    assert layout.blocks == 23 and layout.region == 23 * 2048
    assert layout.size - layout.region <= layout.blocks * 2048 * 8
    image = np.random.default_rng(1).integers(0, 256, layout.size, dtype=np.uint8)
    words = layout.contents(image).reshape(-1, 9)
    end = layout.start + layout.region
    assert (words[: layout.region, 8] == image[layout.start : end]).all()
    rows = words[:, :8].reshape(-1)
    assert (rows[: layout.start] == image[: layout.start]).all()
    assert (rows[layout.start : layout.size - layout.region] == image[end:]).all()


def test_blocks_that_are_read_only_are_never_written():
    """A text changes no byte outside the regions that the program says are written; and blocks are refused that
    would have to keep ninth bits of such a region."""
    model, config = load_model("austen"), load_config(BOARD.config)
    program = compile_model(model, config, context=BOARD.context, keep_logits=False)
    machine, prompt = FunctionalMachine(config), model.tokenizer.encode("It was a truth").ids
    at = program.symbols["tokens"].address
    program.segments[at] = np.array(prompt, "<i4").view(np.uint8)
    written = program.written()
    before = np.zeros_like(machine.memory)
    program.place(before)
    machine.run(program, (len(prompt), len(prompt) + 7, 0, -1))
    changed = np.flatnonzero(machine.memory != before)
    within = np.zeros(machine.memory.size, bool)
    for first, behind in written:
        within[first:behind] = True
    assert changed.size > 1000 and within[changed].all()
    with pytest.raises(ValueError, match="bytes 2000 to 3000 are written"):
        Layout.of(80000, 1024, 10000, [(2000, 3000)])


def test_block_memory_reads_and_writes():
    rng = random.Random(4)
    layout = Layout.of(80000, 1024, 10000, [(0, 1024), (50000, 66000)])
    assert layout.blocks == 5 and layout.region == 10000 and layout.written == {0, 2, 3}
    image = np.random.default_rng(2).integers(0, 256, layout.size, dtype=np.uint8)
    dut = BlockMemory(layout, image, address_bits=17)
    model = bytearray(image.tobytes())

    async def write(ctx, address: int, word: int, strobe: int):
        bus = dut.axi
        for name, value in (("awaddr", address), ("wdata", word), ("wstrb", strobe), ("awvalid", 1), ("wvalid", 1),
                            ("bready", 1)):
            ctx.set(getattr(bus, name), value)
        while not ctx.get(bus.awready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        while not ctx.get(bus.bvalid):
            await ctx.tick()
        await ctx.tick()
        for k in range(8):
            if strobe >> k & 1:
                model[address + k] = word >> 8 * k & 255

    async def read(ctx, address: int, length: int, identity: int):
        bus, got = dut.axi, []
        for name, value in (("araddr", address), ("arlen", length - 1), ("arid", identity), ("arvalid", 1),
                            ("rready", 1)):
            ctx.set(getattr(bus, name), value)
        while not ctx.get(bus.arready):
            await ctx.tick()
        await ctx.tick()
        ctx.set(bus.arvalid, 0)
        while not (got and got[-1][1]):
            if ctx.get(bus.rvalid):
                assert ctx.get(bus.rid) == identity and ctx.get(bus.rresp) == 0
                got.append((ctx.get(bus.rdata), ctx.get(bus.rlast)))
            await ctx.tick()
        assert [word for word, _ in got] == [
            int.from_bytes(model[at : at + 8], "little") for at in range(address, address + 8 * length, 8)]

    async def bench(ctx):
        for _ in range(60):
            address, length = 8 * rng.randrange(9900), rng.choice([1, 2, 5, 64])
            await read(ctx, address, length, rng.randint(0, 1))
            outside = rng.choice([8 * rng.randrange(128), 8 * rng.randrange(6250, 8250)])
            await write(ctx, outside, rng.getrandbits(64), rng.getrandbits(8))
        ctx.set(dut.host.valid, 1)
        ctx.set(dut.host.address, 50004)
        ctx.set(dut.host.word, 0xCAFE1234)
        await ctx.tick()
        ctx.set(dut.host.valid, 0)
        model[50004:50008] = (0xCAFE1234).to_bytes(4, "little")
        for _ in range(8):
            await ctx.tick()
        await read(ctx, 0, 200, 0)  # ninth bits and rows after all the writes
        await read(ctx, 1600, 240, 1)
        await read(ctx, 49992, 8, 1)

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()


def test_the_serial_port_talks_to_itself():
    m = Module()
    m.submodules.tx = tx = UartTransmitter(7)
    m.submodules.rx = rx = UartReceiver(7)
    m.d.comb += rx.rx.eq(tx.tx)
    text, got = bytes(range(0, 256, 5)), []

    async def talk(ctx):
        ctx.set(tx.bytes.valid, 1)
        for byte in text:
            ctx.set(tx.bytes.payload, byte)
            while not ctx.get(tx.bytes.ready):
                await ctx.tick()
            await ctx.tick()
        ctx.set(tx.bytes.valid, 0)
        for _ in range(200):
            await ctx.tick()

    async def listen(ctx):
        while True:
            if ctx.get(rx.valid):
                got.append(ctx.get(rx.byte))
            await ctx.tick()

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(talk)
    sim.add_testbench(listen, background=True)
    sim.run()
    assert bytes(got) == text


def test_a_build_ends_in_a_bitstream_or_says_why_not(tmp_path: Path):
    files = BuildPlan("top")
    for name in ("top.il", "top.ys", "top.lpf"):
        files.add_file(name, "")
    seeds = []

    def tools(achieved: float):
        def nextpnr(args: list[str], folder: Path) -> str:
            seeds.append(args[args.index("--seed") + 1])
            usage = {kind: {"used": 1, "available": 2}
                     for kind in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")}
            path = {"from": "posedge clk", "to": "posedge clk",
                    "path": [{"type": kind, "delay": ns, "to": {"cell": f"core.vector.sum_LUT4_Z_{i}"}}
                             for i, (kind, ns) in enumerate([("logic", 3.5), ("routing", 1.25)])]}
            (folder / "nextpnr.json").write_text(json.dumps({
                "fmax": {"clk": {"achieved": achieved, "constraint": 50.0}}, "utilization": usage,
                "critical_paths": [path]}))
            (folder / "top.tim").write_text("")
            return ""

        def touch(*names: str):
            def run(args: list[str], folder: Path) -> str:
                for name in names:
                    (folder / name).write_text("x")
                return ""
            return run
        return {"yosys": touch("top.rpt"), "nextpnr": nextpnr, "pack": touch("top.bit", "top.svf")}

    report = build.build(BOARD, files, tmp_path / "good", seed=9, **tools(60.0))
    assert seeds == ["9"] and report.margin == pytest.approx(0.2)
    assert report.path == [build.Hop("core.vector.sum", 3.5, 1.25)]
    assert (tmp_path / "good" / "top.bit").exists() and json.loads((tmp_path / "good" / "report.json").read_text())
    with pytest.raises(ValueError, match=r"reaches 40.0 of 50.0 MHz"):
        build.build(BOARD, files, tmp_path / "slow", **tools(40.0))
    assert not (tmp_path / "slow" / "top.bit").exists() and (tmp_path / "slow" / "report.json").exists()
