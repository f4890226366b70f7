"""Matmul unit: tiles from the byte layout through gearbox, array and drain, against `matmul_ref`."""

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator
from amaranth.utils import exact_log2

from wordline.compiler import asm
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.family import FAMILIES
from wordline.pe.quantize import quantize
from wordline.rtl import float_ref as ref
from wordline.rtl.config import ArrayConfig, BusConfig, Config, MemoryConfig, VectorConfig
from wordline.rtl.isa import ROW_SCALES, CodeOrder, Unit
from wordline.rtl.layout import TileLayout, pack
from wordline.rtl.matmul_ref import effective_weights, matmul
from wordline.rtl.matmul_unit import MatmulUnit

ACT = 256
FLOATS = 512


def config(family, rows, cols, lanes, bus, drain=1, act_bits=8, floating=False, window=0, weights=()):
    if not weights:
        weights = ("int8", "int7", "int5", "int4", "int2", "int1", "int4_asym", "bitmod_fp4", "bitmod_fp3", "ternary")
    if floating:
        weights = ("int8", "int4_asym", "bitmod_fp3", "mxfp4", "nvfp4", "pow2x2", "pow2x3")
    return Config(
        array=ArrayConfig(family=family, rows=rows, cols=cols, lanes=lanes, act_bits=act_bits,
                          sparse=floating or window > 0, window=window, weights=weights, group_min=max(lanes, 16),
                          group_max=256, drain_lanes=drain),
        vector=VectorConfig(lanes=4), bus=BusConfig(data_bits=bus),
        memory=MemoryConfig(act_elements=ACT, matmul_floats=FLOATS, meta_beats=64))


def case(cfg, rng, name, *, n, k, group, rows, order=CodeOrder.PLANES, scaled=True, act_tiles=0, missing=0, kept=0):
    """One instruction: its fields, beats, activations, row scales, and the expected rows."""
    a, dtype = cfg.array, WEIGHT_TYPES[name]
    steps = -(-k // a.lanes)
    order = CodeOrder.TRITS if dtype.trits else order
    w = rng.standard_normal((n, k)).astype(np.float32)
    group_steps = (group // a.lanes) if scaled else 0
    q = quantize(w, dtype, group_steps * a.lanes)
    tiles, index, k_steps = -(-n // a.cols), None, steps
    if missing:
        groups = steps // group_steps - missing
        mixed = rng.permuted(np.tile(np.arange(groups + missing), (tiles, 1)), axis=1)
        index = np.sort(mixed[:, :groups], 1) * group_steps
        steps = groups * group_steps
    if kept:  # of every window of every lane, other ones in every tile
        windows = steps // a.window
        mixed = rng.permuted(np.tile(np.arange(a.window), (tiles, windows, a.lanes, 1)), axis=-1)
        index = np.sort(mixed[..., :kept], -1).swapaxes(2, 3).astype(np.uint8)  # tile, window, step, lane
        steps, group_steps = windows * kept, group_steps // a.window * kept
    layout = TileLayout(cols=a.cols, lanes=a.lanes, bus_bits=cfg.bus.data_bits, planes=dtype.bits, steps=steps,
                        group_steps=group_steps, aux=dtype.aux if scaled else 0,
                        channel_scales=scaled, group_scales=scaled, float_scales=dtype.float_scales, order=order,
                        sparse=bool(missing), window=a.window, kept=kept)
    raw = pack(layout, q.codes, q.scales, q.aux, q.channel_scale,
               index.reshape(tiles, steps, a.lanes) if kept else index)
    top = (1 << a.act_bits - 1) - 1
    turns = -(-tiles // (act_tiles or tiles))
    x = np.zeros((a.rows, turns, k_steps * a.lanes), np.int64)
    x[..., :k] = rng.integers(-top, top, (a.rows, turns, k), endpoint=True)
    act, slot, out = (int(rng.integers(n)) for n in (ACT // a.lanes - turns * k_steps + 1, 8, 8))
    act -= act % a.window if kept else 0
    stride = tiles * a.cols // 4 + 1
    fields = {"rows": rows, "act": act, "tiles": tiles, "steps": steps, "out": out, "kind": int(dtype.kind),
              "planes": dtype.bits, "group_steps": group_steps, "groups": layout.groups,
              "aux": int(layout.aux), "channel_scales": int(scaled), "group_scales": int(scaled),
              "float_scales": int(dtype.float_scales), "sparse": int(bool(missing)), "kept": kept,
              "order": int(order), "slot": slot, "out_stride": stride, "act_tiles": act_tiles}
    row_scale = rng.uniform(0.001, 0.1, a.rows).astype(np.float32)
    weights, channel = effective_weights(raw, layout, dtype.kind)
    if missing:  # the dense product with zeros
        there = np.zeros((tiles * a.cols, k_steps // group_steps), bool)
        np.put_along_axis(there, np.repeat(index // group_steps, a.cols, 0), True, 1)
        dense = q.integers() * np.repeat(there[:n], group, 1)[:, :k]
        assert (weights[:n] == dense[:, : weights.shape[1]]).all() and not dense[:, weights.shape[1] :].any()
    if kept:
        there = np.zeros((tiles, windows, a.window, a.lanes), bool)
        np.put_along_axis(there, index.astype(np.intp), True, 2)
        every = q.integers() if scaled else dtype.values(q.codes)
        dense = np.where(np.repeat(there.reshape(tiles, -1), a.cols, 0)[:n], every, 0)
        assert there.mean() == kept / a.window
        assert (weights[:n] == dense[:, : weights.shape[1]]).all() and not dense[:, weights.shape[1] :].any()
    shared = (act_tiles or tiles) * a.cols
    want = np.concatenate([
        matmul(x[:rows, i, : weights.shape[1]], weights[part], row_scale[:rows], channel[part] if scaled else None)
        for i in range(turns) for part in [slice(i * shared, (i + 1) * shared)]], 1)
    beat = cfg.beat_bytes
    beats = [int.from_bytes(raw[i : i + beat].tobytes(), "little") for i in range(0, raw.size, beat)]
    return fields, beats, x.reshape(a.rows, -1), row_scale, want


def run(cfg, cases, stall, rng):
    a, lanes = cfg.array, cfg.vector.lanes
    m = Module()
    m.submodules.unit = unit = MatmulUnit(cfg, inline=True)
    bits = a.lanes * a.act_bits
    acts = []
    for r in range(a.rows):
        memory = Memory(shape=bits, depth=ACT // a.lanes, init=[])
        m.submodules[f"act_{r}"] = memory
        port = memory.read_port()
        if not a.window:
            m.d.comb += [port.addr.eq(unit.act.addr), unit.act.data.word_select(r, bits).eq(port.data)]
        acts.append(memory)
    if a.window:  # each lane reads the word that it asks for
        low = exact_log2(a.window)
        for j in range(a.lanes):
            for r in range(a.rows):
                port = acts[r].read_port()
                m.d.comb += [
                    port.addr.eq(Cat(unit.act_words.word_select(j, low), unit.act.addr[low:])),
                    unit.act.data.word_select(r * a.lanes + j, a.act_bits).eq(port.data.word_select(j, a.act_bits))]
    m.submodules.scales = scales = Memory(shape=32, depth=ROW_SCALES, init=[])
    port = scales.read_port()
    m.d.comb += [port.addr.eq(unit.row_scale.addr), unit.row_scale.data.eq(port.data)]
    m.submodules.bank = bank = Memory(shape=32 * lanes, depth=FLOATS // lanes, init=[])
    port = bank.write_port(granularity=32 * a.drain_lanes)
    m.d.comb += [port.addr.eq(unit.m.addr), port.data.eq(unit.m.data), port.en.eq(unit.m.en)]
    stream = [beat for c in cases for beat in c[1]]

    async def feed(ctx):
        for beat in stream:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(unit.beats.payload, beat)
            ctx.set(unit.beats.valid, 1)
            await ctx.tick().until(unit.beats.ready)
            ctx.set(unit.beats.valid, 0)

    async def drive(ctx):
        for fields, _, x, row_scale, want in cases:
            for r in range(a.rows):
                for s in range(x.shape[1] // a.lanes):
                    step = [int(v) & (1 << a.act_bits) - 1 for v in x[r, s * a.lanes : (s + 1) * a.lanes]]
                    ctx.set(acts[r].data[fields["act"] + s], sum(v << i * a.act_bits for i, v in enumerate(step)))
                ctx.set(scales.data[fields["slot"] * 16 + r], int(ref.to_bits(row_scale[r])))
            ctx.set(unit.port.instruction.payload.as_value(), asm.encode(Unit.MATMUL, fields))
            ctx.set(unit.port.instruction.valid, 1)
            await ctx.tick().until(unit.port.instruction.ready)
            ctx.set(unit.port.instruction.valid, 0)
            for _ in range(20000):
                if ctx.get(unit.port.done):
                    break
                await ctx.tick()
            else:
                raise AssertionError("the instruction does not end")
            await ctx.tick()
            for r in range(fields["rows"]):
                words = want.shape[1] // lanes
                start = fields["out"] + r * fields["out_stride"]
                raw = b"".join(ctx.get(bank.data[start + i]).to_bytes(4 * lanes, "little") for i in range(words))
                got = np.frombuffer(raw, np.uint32)
                bad = np.flatnonzero(got != ref.to_bits(want[r]))
                assert not bad.size, (f"row {r} channel {bad[0]} of {fields}: {got[bad[0]]:x} "
                                      f"not {ref.to_bits(want[r])[bad[0]]:x} ({bad.size} differ)")

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(drive)
    sim.add_testbench(feed, background=True)
    sim.run()


@pytest.mark.parametrize(("family", "rows", "cols", "lanes", "bus", "drain", "act_bits"), [
    ("mac", 1, 8, 8, 64, 1, 8),
    ("mac", 2, 8, 16, 32, 2, 16),
    ("mac", 1, 8, 8, 256, 4, 8),
    ("bit_serial", 2, 8, 8, 64, 1, 8),
    ("bit_serial", 1, 16, 8, 512, 2, 16),
])
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_matmul(family, rows, cols, lanes, bus, drain, act_bits, stall):
    rng = np.random.default_rng(7)
    cfg = config(family, rows, cols, lanes, bus, drain, act_bits)
    shapes = [
        ("int8", dict(n=16, k=32, group=32, rows=1)),
        ("bitmod_fp4", dict(n=40, k=96, group=32, rows=rows)),
        ("bitmod_fp3", dict(n=16, k=72, group=32, rows=rows)),
        ("int4_asym", dict(n=20, k=80, group=32, rows=rows)),
        ("int5", dict(n=16, k=64, group=16, rows=rows)),
        ("int7", dict(n=16, k=40, group=32, rows=rows)),
        ("int1", dict(n=20, k=100, group=32, rows=rows)),
        ("int8", dict(n=32, k=40, group=0, rows=rows, order=CodeOrder.LANES, scaled=False)),
        ("ternary", dict(n=40, k=120, group=32, rows=rows)),
        ("ternary", dict(n=24, k=200, group=0, rows=rows)),
        ("int8", dict(n=24, k=48, group=0, rows=rows, order=CodeOrder.COLUMNS)),
        ("int4", dict(n=8, k=16, group=0, rows=rows, order=CodeOrder.COLUMNS, scaled=False)),
        ("int4", dict(n=8, k=16, group=0, rows=rows, order=CodeOrder.LANES, scaled=False)),
        ("int2", dict(n=40, k=16, group=0, rows=rows, order=CodeOrder.COLUMNS, scaled=False, act_tiles=2)),
        ("int2", dict(n=8, k=24, group=0, rows=rows, order=CodeOrder.LANES, scaled=False)),
        ("int4", dict(n=48, k=16, group=0, rows=1, order=CodeOrder.COLUMNS, act_tiles=1)),
        ("int4", dict(n=17, k=100, group=16 if lanes <= 16 else lanes, rows=1)),
    ]
    run(cfg, [case(cfg, rng, name, **shape) for name, shape in shapes], stall, rng)


@pytest.mark.parametrize(("family", "rows", "cols", "lanes", "bus", "drain", "act_bits"), [
    ("mac", 1, 8, 8, 64, 1, 16),
    ("bit_serial", 2, 16, 8, 256, 2, 8),
])
def test_float_scales_gaps_and_missing_groups(family, rows, cols, lanes, bus, drain, act_bits):
    rng = np.random.default_rng(8)
    cfg = config(family, rows, cols, lanes, bus, drain, act_bits, floating=True)
    shapes = [(name, dict(n=20, k=96, group=group, rows=rows)) for name, group in (
        ("mxfp4", 32), ("int4_asym", 32), ("nvfp4", 16), ("pow2x3", 16), ("bitmod_fp3", 32), ("pow2x2", 32))]
    for i, (name, group, missing) in enumerate((("int4_asym", 16, 3), ("pow2x3", 16, 5), ("bitmod_fp3", 32, 1),
                                                ("int8", 16, 4), ("nvfp4", 16, 2))):
        shapes.insert(2 * i, (name, dict(n=20, k=96, group=group, rows=rows, missing=missing)))
    run(cfg, [case(cfg, rng, name, **shape) for name, shape in shapes], 0.3, rng)


NM_WEIGHTS = {"mac": ["int4_asym", "pow2x3", "mxfp4", "ternary"], "mac_packed": ["int4_asym", "bitmod_fp3"],
              "bit_serial": ["bitmod_fp4", "int5", "nvfp4"], "shift_add": ["int4", "bitmod_fp4"],
              "lut": ["int4_asym", "ternary"], "ternary": ["ternary", "int4"], "bit_plane": ["int4", "ternary"]}


@pytest.mark.parametrize(("family", "window", "rows", "lanes", "bus"), [
    ("mac", 4, 2, 8, 64), ("mac_packed", 4, 1, 16, 32), ("bit_serial", 8, 1, 8, 128), ("shift_add", 2, 2, 8, 32),
    ("lut", 4, 2, 8, 64), ("ternary", 2, 1, 8, 256), ("bit_plane", 4, 1, 8, 64), ("mac", 16, 1, 8, 32)])
def test_single_weights_that_are_left_out_are_zeros(family, window, rows, lanes, bus):
    """N:M: the dense product with zeros, for any N, beside dense instructions and missing groups."""
    rng = np.random.default_rng(window)
    types = NM_WEIGHTS[family]
    cfg = config(family, rows, 8, lanes, bus, 1, 8, window=window, weights=("int8", *types))
    group = window * lanes
    cases = []
    for i, name in enumerate(types):
        for kept in sorted({1, window // 2, window - (i % 2)}):
            cases.append((name, dict(n=12, k=2 * group, group=group, rows=rows, kept=kept)))
    cases.insert(1, ("int8", dict(n=12, k=40, group=0, rows=rows, order=CodeOrder.COLUMNS)))
    cases.append(("int8", dict(n=8, k=group, group=0, rows=1, kept=window // 2, scaled=False)))
    cases.insert(2, (types[0], dict(n=20, k=2 * group, group=group, rows=rows, missing=1)))
    run(cfg, [case(cfg, rng, name, **shape) for name, shape in cases], 0.3, rng)


def test_every_family_leaves_single_weights_out():
    assert set(NM_WEIGHTS) == set(FAMILIES)
