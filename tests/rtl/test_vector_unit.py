"""Vector unit: random instructions on the hardware against `vector_ref`, bit for bit and cycle for cycle."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from wordline.compiler import asm
from wordline.rtl import float_ref as ref
from wordline.rtl.config import ArrayConfig, Config, MemoryConfig, VectorConfig
from wordline.rtl.isa import (
    Destination,
    Factor,
    Function,
    IntBits,
    Join,
    Reduction,
    SourceA,
    SourceB,
    Unit,
)
from wordline.rtl.vector_ref import VectorState, execute
from wordline.rtl.vector_unit import VectorUnit, vector_cycles, vector_words

FLOATS = 256


def config(lanes: int) -> Config:
    return Config(vector=VectorConfig(lanes=lanes), array=ArrayConfig(lanes=16, cols=16, rows=2, act_bits=16),
                  memory=MemoryConfig(vector_floats=FLOATS, matmul_floats=FLOATS, load_floats=FLOATS,
                                      store_floats=FLOATS, act_elements=FLOATS))


def random_fields(rng: np.random.Generator, lanes: int) -> dict:
    words = FLOATS // lanes
    length = int(rng.choice([0, 1, 2, lanes, lanes + 1, rng.integers(1, 60), rng.integers(100, 200)]))
    function = Function(rng.choice([0, 0, 0, 1, 2, 3, 4]))
    destination = Destination(rng.integers(0, 6))
    outer = int(rng.choice([0, 0, 0, 1, 3])) if length < 60 else 0
    near = rng.normal(0, 3)
    if destination in (Destination.SCALAR, Destination.ROW_SCALE):  # they take one word
        length, outer = min(length, lanes), 0
    fields = {
        "pad": int(rng.choice([0, 0, length + 5])) if length > lanes else 0, "a": int(rng.integers(0, words)),
        "b": int(rng.integers(0, words)),
        "dst": int(rng.integers(0, words)) | (int(rng.integers(2)) << 12 if destination == 2 else 0),
        "len": length, "a_source": SourceA(rng.integers(4)), "b_source": SourceB(rng.integers(3)),
        "multiply": Factor(rng.integers(4)), "multiply_scalar": int(rng.integers(16)),
        "addend": Factor(rng.integers(4)), "addend_scalar": int(rng.integers(16)),
        "join": Join(rng.integers(2)), "negate_product": int(rng.integers(2)),
        "negate_addend": int(rng.integers(2)), "function": function, "bits": IntBits(rng.integers(3)),
        "destination": destination, "reduction": Reduction(rng.integers(5)),
        "scalar": int(rng.integers(15)), "keep": int(rng.integers(2)), "outer": outer,
        "a_stride": int(rng.integers(9)), "b_stride": int(rng.integers(9)), "dst_stride": int(rng.integers(9)),
        "immediate": int(ref.to_bits(np.float32(near))),
    }
    if destination == Destination.X:
        # A destination is a source's very words, or none of its words.
        fields["b_source"] = SourceB(rng.integers(1, 3))
        fields["a_source"] = SourceA(rng.integers(1, 4))
        if rng.integers(2):
            fields |= {"a_source": SourceA.X, "dst": fields["a"], "outer": 0}
    return fields


def random_bank(rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(0, 4, FLOATS) * 2.0 ** rng.integers(-3, 4, FLOATS)
    bits = ref.to_bits(x.astype(np.float32)).copy()
    bits[rng.integers(0, FLOATS, 6)] = [0, 0x80000000, 0x7F800000, 0x7FC00000, 0x00000123, 0xFF800000]
    return bits


def run_hardware(cfg: Config, state: VectorState, instructions: list[dict]) -> list[int]:
    """Runs instructions on hardware whose memories start as `state`; writes them back into `state`."""
    lanes, act_bits = cfg.vector.lanes, cfg.array.act_bits
    m = Module()
    m.submodules.unit = unit = VectorUnit(cfg)

    def words(bank: np.ndarray) -> list[int]:
        return [int.from_bytes(w.tobytes(), "little") for w in bank.reshape(-1, lanes)]

    copies = {}
    for name, bank, reads, write in [("x", state.x, (unit.x_a, unit.x_b), unit.x), ("m", state.m, (unit.m_a, unit.m_b), None),
                                     ("l", state.l, (unit.l_b,), None), ("s", state.s, (), unit.s)]:
        for i, port in enumerate(reads or (None,)):
            memory = Memory(shape=32 * lanes, depth=FLOATS // lanes, init=words(bank))
            m.submodules[f"{name}_{i}"] = copies[name] = memory
            if port is not None:
                read = memory.read_port()
                m.d.comb += [read.addr.eq(port.addr), port.data.eq(read.data)]
            if write is not None:
                w = memory.write_port()
                m.d.comb += [w.addr.eq(write.addr), w.data.eq(write.data), w.en.eq(write.en)]
    for r in range(cfg.array.rows):
        memory = Memory(shape=lanes * act_bits, depth=FLOATS // lanes, init=[])
        m.submodules[f"act_{r}"] = copies[f"act{r}"] = memory
        w = memory.write_port()
        m.d.comb += [w.addr.eq(unit.act.addr), w.data.eq(unit.act.data), w.en.eq(unit.act.en & (unit.act_row == r))]
    m.submodules.scales = copies["scales"] = scales = Memory(shape=32, depth=64, init=[])
    w = scales.write_port()
    m.d.comb += [w.addr.eq(unit.row_scale.addr), w.data.eq(unit.row_scale.data), w.en.eq(unit.row_scale.en)]
    cycles = []

    async def bench(ctx):
        for fields in instructions:
            ctx.set(unit.port.instruction.payload.as_value(), asm.encode(Unit.VECTOR, fields))
            ctx.set(unit.port.instruction.valid, 1)
            assert ctx.get(unit.port.instruction.ready)
            n = 0
            while not ctx.get(unit.port.done):
                await ctx.tick()
                ctx.set(unit.port.instruction.valid, 0)
                n += 1
                assert n < 2000
            cycles.append(n)
            await ctx.tick()
        for name in ("x", "s"):
            raw = b"".join(ctx.get(copies[name].data[i]).to_bytes(4 * lanes, "little")
                           for i in range(FLOATS // lanes))
            getattr(state, name)[:] = np.frombuffer(raw, np.uint32)
        for r in range(cfg.array.rows):
            raw = b"".join(ctx.get(copies[f"act{r}"].data[i]).to_bytes(lanes * 2, "little")
                           for i in range(FLOATS // lanes))
            state.act[r] = np.frombuffer(raw, np.int16)
        state.row_scale[:] = [ctx.get(scales.data[i]) for i in range(64)]

    sim = Simulator(m)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return cycles


@pytest.mark.parametrize(("lanes", "n"), [(2, 40), (4, 130), (8, 60), (16, 30)])
def test_random_instructions(lanes, n):
    rng = np.random.default_rng(lanes)
    cfg = config(lanes)
    expected, state = VectorState(cfg), VectorState(cfg)
    for bank in ("x", "m", "l", "s"):
        getattr(expected, bank)[:] = random_bank(rng)
        getattr(state, bank)[:] = getattr(expected, bank)
    # Scalars first, so that instructions read something; at the end all go to bank S.
    program = [{"a_source": SourceA.IMMEDIATE, "immediate": int(ref.to_bits(np.float32(rng.normal()))),
                "len": 1, "destination": Destination.SCALAR, "dst": i} for i in range(16)]
    program += [random_fields(rng, lanes) for _ in range(n)]
    program += [{"a_source": SourceA.SCALAR, "a": i, "len": 1, "destination": Destination.S, "dst": i}
                for i in range(16)]
    full = []
    for fields in program:
        _, decoded = asm.fields(asm.encode(Unit.VECTOR, fields))
        full.append({k: v[0] if isinstance(v, tuple) else v for k, v in decoded.items()})
        execute(full[-1], expected)
    cycles = run_hardware(cfg, state, program)
    for name in ("x", "s", "act", "row_scale"):
        got, want = getattr(state, name), getattr(expected, name)
        bad = np.argwhere(got != want)
        assert not bad.size, f"{name}{list(bad[0])}: {got[tuple(bad[0])]:x} not {want[tuple(bad[0])]:x}"
    for i, (fields, measured) in enumerate(zip(full, cycles, strict=True)):
        words = vector_words(cfg, length=fields["len"], pad=fields["pad"], outer=fields["outer"],
                             destination=fields["destination"])
        assert measured == vector_cycles(cfg, words, fields["reduction"]), (i, fields)


def test_results_do_not_depend_on_the_number_of_lanes():
    rng = np.random.default_rng(9)
    bank = random_bank(rng)
    sums = set()
    for lanes in (2, 4, 8, 16):
        state = VectorState(config(lanes))
        state.x[:] = np.where(np.isfinite(ref.from_bits(bank)), bank, 0)
        _, f = asm.fields(asm.encode(Unit.VECTOR, {"len": 231, "multiply": Factor.B, "reduction": Reduction.SUM}))
        execute({k: v[0] if isinstance(v, tuple) else v for k, v in f.items()}, state)
        sums.add(int(state.scalars[0]))
    assert len(sums) == 1
