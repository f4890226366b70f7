"""Vector unit: instructions on the hardware against `vector_ref`, bit for bit and cycle for cycle.

Many instructions share one simulation; what they leave in the scalar registers goes to bank S at its end.
"""

import numpy as np
import pytest
from amaranth.hdl import Module, Shape
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator

from wordline.compiler import asm
from wordline.rtl import float_ref as ref
from wordline.rtl.config import ArrayConfig, Config, MemoryConfig, VectorConfig
from wordline.rtl.isa import (
    ROW_SCALES,
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
from wordline.rtl.vector_ref import VectorFields, VectorState, decode, execute
from wordline.rtl.vector_unit import VectorUnit, vector_cycles, vector_depth, vector_words

FLOATS = 512
BANKS = ("x", "m", "l", "s")


def config(lanes: int) -> Config:
    wide = max(16, lanes)
    return Config(
        vector=VectorConfig(lanes=lanes),
        array=ArrayConfig(lanes=wide, cols=wide, rows=2, act_bits=16, group_min=2 * wide),
        memory=MemoryConfig(vector_floats=FLOATS, matmul_floats=FLOATS, load_floats=FLOATS,
                            store_floats=FLOATS, act_elements=FLOATS))


class Bench:
    """A vector unit, the memories around it, and the reference's state; they start out equal."""

    def __init__(self, lanes: int, banks: dict[str, np.ndarray]):
        self.config = config(lanes)
        self.expected, self.state = VectorState(self.config), VectorState(self.config)
        for state in (self.expected, self.state):
            for name, bits in banks.items():
                getattr(state, name)[: bits.size] = bits

    def design(self) -> tuple[Module, VectorUnit, dict[str, Memory]]:
        lanes = self.config.vector.lanes
        m = Module()
        m.submodules.unit = unit = VectorUnit(self.config)
        written = {}

        def memory(name, width, depth, init, *, read=None, write=None, en=None):
            m.submodules[name] = block = Memory(shape=width, depth=depth, init=init)
            if read is not None:
                port = block.read_port()
                m.d.comb += [port.addr.eq(read.addr), read.data.eq(port.data)]
            if write is not None:
                port = block.write_port()
                m.d.comb += [port.addr.eq(write.addr), port.data.eq(write.data),
                             port.en.eq(write.en if en is None else en)]
                written[name] = block

        ports = {"x_a": unit.x, "x_b": unit.x, "m_a": None, "m_b": None, "l_b": None}
        for name, write in ports.items():
            init = [int.from_bytes(word.tobytes(), "little")
                    for word in getattr(self.state, name[0]).reshape(-1, lanes)]
            memory(name, 32 * lanes, FLOATS // lanes, init, read=getattr(unit, name), write=write)
        memory("s", 32 * lanes, FLOATS // lanes, [], write=unit.s)
        for row in range(self.config.array.rows):
            memory(f"act_{row}", 16 * lanes, FLOATS // lanes, [], write=unit.act,
                   en=unit.act.en & (unit.act_row == row))
        memory("row_scale", 32, ROW_SCALES, [], write=unit.row_scale)
        return m, unit, written

    def run(self, program: list[dict]) -> list[int]:
        """Runs `program` and compares everything; returns each instruction's cycles."""
        program = program + [
            {"a_source": SourceA.SCALAR, "a": i, "len": 1, "destination": Destination.S, "dst": i}
            for i in range(16)]
        words = [asm.encode(Unit.VECTOR, fields) for fields in program]
        m, unit, written = self.design()
        cycles = []

        async def bench(ctx):
            for i, word in enumerate(words):
                ctx.set(unit.port.instruction.payload.as_value(), word)
                ctx.set(unit.port.instruction.valid, 1)
                assert ctx.get(unit.port.instruction.ready)
                await ctx.tick()
                # What follows a transfer must not matter.
                ctx.set(unit.port.instruction.valid, i % 2)
                ctx.set(unit.port.instruction.payload.as_value(), ~word & (1 << 256) - 1)
                cycles.append(1)
                while not ctx.get(unit.port.done):
                    assert not ctx.get(unit.port.instruction.ready)
                    await ctx.tick()
                    cycles[-1] += 1
                    assert cycles[-1] < 3000
                await ctx.tick()

            def read(name: str) -> bytes:
                data = written[name].data
                return b"".join(ctx.get(data[i]).to_bytes(Shape.cast(data.shape).width // 8, "little")
                                for i in range(data.depth))

            self.state.x[:] = np.frombuffer(read("x_a"), np.uint32)
            assert read("x_a") == read("x_b")
            self.state.s[:] = np.frombuffer(read("s"), np.uint32)
            self.state.row_scale[:] = np.frombuffer(read("row_scale"), np.uint32)
            for row, codes in enumerate(self.state.act):
                codes[:] = np.frombuffer(read(f"act_{row}"), np.int16)

        sim = Simulator(m)
        sim.add_clock(1e-6)
        sim.add_testbench(bench)
        sim.run()
        for word in words:
            execute(decode(word), self.expected)
        for name in ("s", "x", "act", "row_scale"):
            got, want = getattr(self.state, name), getattr(self.expected, name)
            for place in np.argwhere(got != want)[:1]:
                raise AssertionError(f"{name}{list(place)}: {got[tuple(place)]:x} not {want[tuple(place)]:x}")
        for word, measured in zip(words, cycles, strict=True):
            f = decode(word)
            total = vector_words(self.config, length=f.len, pad=f.pad, outer=f.outer,
                                 destination=Destination(f.destination))
            depth = vector_depth(Factor(f.multiply), Factor(f.addend), Function(f.function))
            assert measured == vector_cycles(self.config, total, Reduction(f.reduction), depth), f
        return cycles


def scalar(x: float, number: int) -> dict:
    return {"a_source": SourceA.IMMEDIATE, "immediate": int(ref.to_bits(np.float32(x))), "len": 1,
            "destination": Destination.SCALAR, "dst": number}


def random_fields(rng: np.random.Generator, lanes: int) -> dict:
    words = FLOATS // lanes
    length = int(rng.choice([0, 1, 2, lanes, lanes + 1, rng.integers(1, 60), rng.integers(100, 200)]))
    destination = Destination(rng.integers(0, 6))
    outer, more = (int(n) for n in rng.choice([0, 0, 0, 1, 3], 2)) if length < 60 else (0, 0)
    pad = int(rng.choice([0, 0, length + 5]))
    if destination in (Destination.SCALAR, Destination.ROW_SCALE):  # they take one word
        length, outer, more, pad = min(length, lanes), 0, 0, int(rng.integers(lanes + 1))
    row = int(rng.integers(2)) << 12 if destination == Destination.ACT else 0
    fields = {
        "pad": pad | more << 16, "a": int(rng.integers(words)), "b": int(rng.integers(words)),
        "dst": int(rng.integers(words)) | row, "len": length,
        "a_source": SourceA(rng.integers(4)), "b_source": SourceB(rng.integers(3)),
        "multiply": Factor(rng.integers(4)), "multiply_scalar": int(rng.integers(16)),
        "addend": Factor(rng.integers(4)), "addend_scalar": int(rng.integers(16)),
        "join": Join(rng.integers(2)), "negate_product": int(rng.integers(2)),
        "negate_addend": int(rng.integers(2)), "function": Function(rng.choice([0, 0, 0, 1, 2, 3, 4])),
        "bits": IntBits(rng.integers(4)), "destination": destination,
        "reduction": Reduction(rng.integers(5)), "scalar": int(rng.integers(16)),
        "keep": int(rng.integers(2)), "outer": outer, "a_stride": int(rng.integers(9)),
        "b_stride": int(rng.integers(9)), "dst_stride": int(rng.integers(9)),
        "immediate": int(ref.to_bits(np.float32(rng.normal(0, 3)))),
    }
    if destination == Destination.X:
        # A destination is a source's very words, or none of its words.
        fields["b_source"] = SourceB(rng.integers(1, 3))
        fields["a_source"] = SourceA(rng.integers(1, 4))
        if rng.integers(2):
            fields |= {"a_source": SourceA.X, "dst": fields["a"], "outer": 0, "pad": pad}
    return fields


def random_bank(rng: np.random.Generator) -> np.ndarray:
    x = rng.normal(0, 4, FLOATS) * 2.0 ** rng.integers(-3, 4, FLOATS)
    bits = ref.to_bits(x.astype(np.float32)).copy()
    bits[rng.integers(0, FLOATS, 6)] = [0, 0x80000000, 0x7F800000, 0x7FC00001, 0x00000123, 0xFF800000]
    return bits


@pytest.mark.parametrize(("lanes", "n"), [(2, 40), (4, 120), (8, 40), (16, 8),
                                          pytest.param(64, 2, marks=pytest.mark.slow)])
def test_random_instructions(lanes, n):
    rng = np.random.default_rng(lanes)
    bench = Bench(lanes, {name: random_bank(rng) for name in BANKS[:3]})
    # Scalars first, so that instructions read something.
    program = [scalar(rng.normal(), i) for i in range(16)]
    bench.run(program + [random_fields(rng, lanes) for _ in range(n)])


@pytest.mark.parametrize("lanes", [4, 8, 32])
def test_sums_of_every_kind_of_length(lanes):
    rng = np.random.default_rng(10)
    x = rng.normal(0, 1, FLOATS).astype(np.float32)
    # Short ones after long ones, which leave something in the memory of the partial sums.
    lengths = [300, 0, 3 * lanes, lanes + 1, lanes, lanes - 1, 1, 33, 129, 64, 128 - lanes, 127, 128]
    bench = Bench(lanes, {"x": ref.to_bits(x)})
    bench.run([{"len": n, "reduction": Reduction.SUM, "scalar": i, "keep": 1}
               for i, n in enumerate(lengths)])
    # Not even the order of the sum may depend on the lanes.
    sums = [int(ref.to_bits(ref.row_sum(x[:n]))) for n in lengths]
    assert bench.state.s.reshape(-1, lanes)[: len(sums), 0].tolist() == sums


def test_a_masked_element_leaves_a_partial_sum_of_minus_zero_alone():
    x = np.zeros(FLOATS, np.float32)
    # All partial sums become -0: their second addition is flushed. The third adds -0 to some.
    x[:128], x[128:256], x[256:] = -1.5 * 2.0**-126, 2.0**-126, -0.0
    for lanes in (2, 4):
        bench = Bench(lanes, {"x": ref.to_bits(x)})
        bench.run([{"len": n, "reduction": Reduction.SUM, "scalar": i}
                   for i, n in enumerate((256, 257, 258, 260))])
        assert bench.state.s.reshape(-1, lanes)[:4, 0].tolist() == [0x80000000] * 4


def test_the_first_largest_wins():
    lanes = 4
    x = np.full(FLOATS, -1, np.float32)
    nan = ref.from_bits(np.uint32(0x7FC00000))
    x[:20] = [nan, -5, 7, 3, 2, nan, 6, 7, 7, nan, 1, 0, -9, 8, 8, 8, 8, 2, 2, nan]
    x[32:36], x[36:40], x[40:44] = nan, [-0.0, 0.0, -0.0, 0.0], -np.inf
    best = {"reduction": Reduction.ARGMAX}
    cases = [  # fields, index
        ({"len": 12}, 2), ({"len": 4}, 2), ({"len": 20}, 13), ({"len": 13}, 2),
        ({"len": 4, "a": 8}, 0),                      # nothing but NaN
        ({"len": 4, "a": 9}, 1),                      # +0 is larger than -0
        ({"len": 4, "a": 10, "b": 10}, 0),            # -infinity is not larger than the start
        ({"len": 4, "a": 1, "b": 100}, 403),          # index from operand b
        ({"len": 2, "outer": 2, "a_stride": 3}, 5),   # words 0, 3 and 6; a segment has 4 places
    ]
    bench = Bench(lanes, {"x": ref.to_bits(x)})
    program = []
    for i, (fields, _) in enumerate(cases):
        program += [scalar(99, 5), scalar(98, 6), {**best, **fields, "scalar": 5},
                    {"a_source": SourceA.SCALAR, "a": 6, "len": 1, "destination": Destination.ROW_SCALE,
                     "dst": i}]
    bench.run(program)
    assert bench.state.row_scale[: len(cases)].tolist() == [index for _, index in cases]


def test_maxima_keep_what_was_there():
    lanes = 8
    x = np.float32([-3, 2, -7, 1, 0.5, -2, 4, -1])
    bench = Bench(lanes, {"x": ref.to_bits(x)})
    maximum = {"len": 8, "reduction": Reduction.MAX}
    largest = {"len": 8, "reduction": Reduction.ABSMAX}
    first = {"len": 8, "reduction": Reduction.ARGMAX, "b": 3}
    bench.run([
        scalar(5, 0), {**maximum, "scalar": 0, "keep": 1}, scalar(3, 1), {**maximum, "scalar": 1, "keep": 1},
        scalar(9, 2), {**maximum, "scalar": 2}, scalar(9, 3), {**largest, "scalar": 3, "keep": 1},
        {**largest, "scalar": 4}, {**largest, "len": 2, "scalar": 5},
        # A larger value was at index 77 before; a tie keeps it as well; a smaller one gives way.
        scalar(4.5, 6), scalar(0, 7), {**first, "scalar": 6, "keep": 1},
        scalar(4, 8), scalar(0, 9), {**first, "scalar": 8, "keep": 1},
        scalar(3.5, 10), scalar(0, 11), {**first, "scalar": 10, "keep": 1},
        # A destination gives way to the reduction.
        {**maximum, "destination": Destination.SCALAR, "dst": 12, "scalar": 12},
    ])
    got = bench.state.s.reshape(-1, lanes)[:13, 0]
    values = got.view(np.float32)
    assert values[:7].tolist() == [5, 4, 4, 9, 7, 3, 4.5] and values[[8, 10, 12]].tolist() == [4, 4, 4]
    assert got[[7, 9, 11]].tolist() == [0, 0, 3 * lanes + 6]


def test_reductions_of_nothing_and_of_nan_give_where_they_start():
    bench = Bench(4, {"x": np.full(4, 0x7FC00000, np.uint32)})
    kinds = [Reduction.SUM, Reduction.MAX, Reduction.ABSMAX, Reduction.ARGMAX]
    bench.run([scalar(9, i) for i in range(10)]
              + [{"len": 0, "reduction": kind, "scalar": i} for i, kind in enumerate(kinds)]
              + [{"len": 4, "reduction": kind, "scalar": i} for i, kind in enumerate(kinds[1:], 5)])
    start = [0xFF800000, 0, 0xFF800000, 0]
    assert bench.state.s.reshape(-1, 4)[:10, 0].tolist() == [0, *start, *start, scalar(9, 0)["immediate"]]


def test_cycles_are_words_and_a_constant():
    """The numbers of the docstring, so that a slower unit does not go unnoticed."""
    bench = Bench(4, {})
    plain = [bench.config.vector.lanes * n for n in (0, 1, 2, 50)]
    kinds = (Reduction.MAX, Reduction.ABSMAX, Reduction.ARGMAX)
    cycles = bench.run([{"len": n} for n in plain] + [{"len": 8, "reduction": k} for k in kinds]
                       + [{"len": n, "reduction": Reduction.SUM} for n in (4, 8, 128, 256)]
                       + [{"len": 4, "outer": 2}, {"len": 5, "destination": Destination.ACT}]
                       + [{"len": 4, "multiply": Factor.B}, {"len": 4, "addend": Factor.B},
                          {"len": 4, "function": Function.INT}, {"len": 4, "function": Function.RECIP},
                          {"len": 4, "multiply": Factor.SCALAR, "addend": Factor.SCALAR, "function": Function.EXP2}])
    assert cycles[:4] == [6, 6, 7, 55]
    assert cycles[4:7] == [12, 12, 13]
    assert cycles[7:11] == [1 + 29, 2 + 37, 32 + 95, 64 + 95]
    assert cycles[11:13] == [8, 9]
    assert cycles[13:18] == [10, 12, 8, 14, 24]


def test_fields_of_the_reference_are_those_of_the_instruction():
    word = asm.encode(Unit.VECTOR, {"len": 3, "a": 7})
    assert decode(word) == VectorFields(len=3, a=7)
