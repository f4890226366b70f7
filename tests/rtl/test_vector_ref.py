"""The vector unit's reference: what series of instructions mean, against float64; its shortcuts, against
`float_ref`, bit for bit."""

import numpy as np
import pytest

from wordline.compiler import asm
from wordline.rtl import float_fast as fast
from wordline.rtl import float_ref as ref
from wordline.rtl.config import ArrayConfig, Config, VectorConfig
from wordline.rtl.isa import (
    Destination,
    Factor,
    Function,
    IntBits,
    Reduction,
    SourceA,
    SourceB,
    Unit,
)
from wordline.rtl.vector_ref import VectorFields, VectorState, decode, execute

SPECIAL = np.array([
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x80800000, 0x00800001, 0x3F800000,
    0xBF800000, 0x3F7FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001,
    0xFFFFFFFF, 0x33800001, 0x20000000, 0x1FFFFFFF, 0x42FE0000, 0x43000000, 0xC3000000, 0xC2FC0000],
    np.uint32)


def machine(lanes: int = 4) -> VectorState:
    return VectorState(Config(vector=VectorConfig(lanes=lanes), array=ArrayConfig(rows=2, act_bits=8)))


def immediate(x: float) -> int:
    return int(ref.to_bits(np.float32(x)))


def put(bank: np.ndarray, word: int, x: np.ndarray, lanes: int = 4) -> None:
    bank[word * lanes : word * lanes + x.size] = x.astype(np.float32).view(np.uint32)


def get(bank: np.ndarray, word: int, n: int, lanes: int = 4) -> np.ndarray:
    return bank[word * lanes : word * lanes + n].view(np.float32).astype(np.float64)


def run(state: VectorState, *program: dict) -> None:
    for fields in program:
        execute(VectorFields(**fields), state)


def constant(x: float, scalar: int) -> dict:
    return {"len": 1, "a_source": SourceA.IMMEDIATE, "immediate": immediate(x),
            "destination": Destination.SCALAR, "dst": scalar}


def test_rmsnorm():
    rng = np.random.default_rng(1)
    n, x, weight = 150, rng.normal(0, 3, 150), rng.normal(1, 0.2, 150)
    state = machine()
    put(state.x, 5, x)
    put(state.l, 2, weight)
    run(state,
        {"len": n, "a": 5, "b": 5, "multiply": Factor.B, "reduction": Reduction.SUM, "scalar": 3},
        constant(1e-5, 4),
        {"len": 1, "a_source": SourceA.SCALAR, "a": 3, "multiply": Factor.IMMEDIATE,
         "immediate": immediate(1 / n), "addend": Factor.SCALAR, "addend_scalar": 4,
         "function": Function.RSQRT, "destination": Destination.SCALAR, "dst": 5},
        {"len": n, "a": 5, "multiply": Factor.SCALAR, "multiply_scalar": 5,
         "destination": Destination.X, "dst": 5},
        {"len": n, "a": 5, "b": 2, "b_source": SourceB.L, "multiply": Factor.B,
         "destination": Destination.X, "dst": 100})
    want = x / np.sqrt(np.mean(x**2) + 1e-5) * weight
    np.testing.assert_allclose(get(state.x, 100, n), want, rtol=2e-6)


def test_softmax_of_two_segments_by_the_maximum_of_both():
    rng = np.random.default_rng(2)
    x = rng.normal(0, 4, (2, 21))
    state = machine()
    for row in range(2):
        put(state.m, 8 * row, x[row])
    log2e = immediate(np.log2(np.e))
    both = {"len": 21, "outer": 1, "a_source": SourceA.M, "a_stride": 8, "dst_stride": 6}
    run(state,
        {**both, "reduction": Reduction.MAX, "scalar": 1},
        {"len": 1, "a_source": SourceA.SCALAR, "a": 1, "multiply": Factor.IMMEDIATE,
         "immediate": log2e, "destination": Destination.SCALAR, "dst": 2},
        {**both, "multiply": Factor.IMMEDIATE, "immediate": log2e, "addend": Factor.SCALAR,
         "addend_scalar": 2, "negate_addend": 1, "function": Function.EXP2,
         "destination": Destination.X, "dst": 40, "reduction": Reduction.SUM, "scalar": 3},
        {"len": 1, "a_source": SourceA.SCALAR, "a": 3, "function": Function.RECIP,
         "destination": Destination.SCALAR, "dst": 3},
        {**both, "a_source": SourceA.X, "a": 40, "a_stride": 6, "multiply": Factor.SCALAR,
         "multiply_scalar": 3, "destination": Destination.S, "dst": 0})
    e = np.exp(x - x.max())
    for row in range(2):
        np.testing.assert_allclose(get(state.s, 6 * row, 21), e[row] / e.sum(), rtol=5e-6)
        assert not get(state.s, 6 * row + 5, 4)[1:].any()  # the last word is filled up with zeros


def test_rotary_embedding():
    rng = np.random.default_rng(3)
    x, y, angle = rng.normal(0, 1, 16), rng.normal(0, 1, 16), rng.uniform(0, 6, 16)
    state = machine()
    put(state.x, 0, x)
    put(state.x, 4, y)
    put(state.l, 0, np.cos(angle))
    put(state.l, 4, np.sin(angle))

    def times(a: int, b: int, dst: int) -> dict:
        return {"len": 16, "a": a, "b": b, "b_source": SourceB.L, "multiply": Factor.B,
                "destination": Destination.X, "dst": dst}

    run(state, times(0, 0, 8), times(4, 4, 12), times(0, 4, 16), times(4, 0, 20),
        {"len": 16, "a": 8, "b": 12, "addend": Factor.B, "negate_addend": 1,
         "destination": Destination.X, "dst": 0},
        {"len": 16, "a": 16, "b": 20, "addend": Factor.B, "destination": Destination.X, "dst": 4})
    np.testing.assert_allclose(get(state.x, 0, 16), x * np.cos(angle) - y * np.sin(angle), atol=5e-7)
    np.testing.assert_allclose(get(state.x, 4, 16), x * np.sin(angle) + y * np.cos(angle), atol=5e-7)


def test_quantising_a_row():
    x = np.random.default_rng(4).normal(0, 2, 45)
    state = machine()
    state.act[:] = 99
    put(state.x, 0, x)
    run(state,
        {"len": 45, "reduction": Reduction.ABSMAX, "scalar": 7},
        {"len": 1, "a_source": SourceA.SCALAR, "a": 7, "multiply": Factor.IMMEDIATE,
         "immediate": immediate(1 / 127), "destination": Destination.ROW_SCALE, "dst": 17,
         "reduction": Reduction.MAX, "scalar": 8},
        {"len": 1, "a_source": SourceA.SCALAR, "a": 8, "function": Function.RECIP,
         "destination": Destination.SCALAR, "dst": 8},
        {"len": 45, "multiply": Factor.SCALAR, "multiply_scalar": 8, "function": Function.INT,
         "bits": IntBits.B8, "destination": Destination.ACT, "dst": 1 << 12 | 2})
    scale = state.row_scale[17:18].view(np.float32)[0]
    assert scale == pytest.approx(np.abs(x).max() / 127)
    codes = state.act[1, 8 : 8 + 45]
    assert np.abs(codes).max() == 127
    assert np.abs(codes * scale - x).max() <= scale * 0.50001
    # 12 words round up to 12 (two words make one array step of 8); nothing else is touched.
    assert not state.act[1, 53:56].any()
    assert (state.act[1, 56:] == 99).all() and (state.act[1, :8] == 99).all()
    assert (state.act[0] == 99).all()


def test_argmax_continues_over_blocks():
    x = np.random.default_rng(5).normal(0, 1, 96)
    x[[40, 77]] = 9  # the first wins
    state = machine()
    put(state.m, 0, x)
    for block in range(3):
        run(state, {"len": 32, "a_source": SourceA.M, "a": 8 * block, "b": 8 * block,
                    "reduction": Reduction.ARGMAX, "scalar": 2, "keep": int(block > 0)})
    assert state.scalars[3] == 40 and state.scalars[2] == immediate(9)


def test_bits_pass_unchanged_without_arithmetic():
    state = machine()
    state.m[: SPECIAL.size] = SPECIAL
    run(state, {"len": SPECIAL.size, "a_source": SourceA.M, "destination": Destination.S})
    assert (state.s[: SPECIAL.size] == SPECIAL).all()


@pytest.mark.parametrize(("kind", "value"), [
    (Reduction.SUM, 0), (Reduction.MAX, 0xFF800000), (Reduction.ABSMAX, 0), (Reduction.ARGMAX, 0xFF800000)])
def test_reductions_of_nothing_and_of_nan(kind, value):
    state = machine()
    state.x[:4] = 0x7FC00000
    for length in (0, 4) if kind != Reduction.SUM else (0,):
        state.scalars[:] = 1
        run(state, {"len": length, "b": 3, "reduction": kind, "scalar": 4})
        assert state.scalars[4] == value
        assert state.scalars[5] == (0 if kind == Reduction.ARGMAX else 1)


@pytest.mark.parametrize("destination", [Destination.SCALAR, Destination.ROW_SCALE])
def test_two_words_for_one_number_are_refused(destination):
    with pytest.raises(ValueError, match="takes one word, not 2"):
        run(machine(), {"len": 5, "destination": destination})


def test_sums_do_not_depend_on_the_number_of_lanes():
    x = np.random.default_rng(6).normal(0, 1, 333).astype(np.float32)
    sums = set()
    for lanes in (2, 4, 8):
        state = machine(lanes)
        put(state.x, 0, x, lanes)
        run(state, {"len": 333, "reduction": Reduction.SUM})
        sums.add(int(state.scalars[0]))
    assert sums == {int(ref.to_bits(ref.row_sum(x)))}
    assert sums != {int(ref.to_bits(np.sum(x, dtype=np.float32)))}


def test_decode_finds_what_the_assembler_wrote():
    rng = np.random.default_rng(7)
    for _ in range(50):
        word = int.from_bytes(rng.bytes(32), "little") & ~7 | Unit.VECTOR
        # Fields that are enumerations take only their members' values.
        names = {"join": 1, "function": 4, "bits": 2, "destination": 5, "reduction": 4, "b_source": 2}
        some = {name: int(rng.integers(top + 1)) for name, top in names.items()}
        some |= {"pad": 1000, "a": 5, "len": word >> 100 & 0xFFFF, "immediate": word & 0xFFFFFFFF,
                 "outer": word >> 8 & 255, "dst_stride": word >> 30 & 1023, "keep": word >> 9 & 1}
        code = asm.encode(Unit.VECTOR, some)
        _, parsed = asm.fields(code)
        plain = {k: v[0] if isinstance(v, tuple) else v for k, v in parsed.items()}
        assert decode(code) == VectorFields.of(plain) == VectorFields(**some)


def patterns(seed: int) -> list[np.ndarray]:
    """Vectors of one kind of number each, so that the short way and the long way are both taken."""
    rng = np.random.default_rng(seed)
    plain = [rng.normal(0, 10.0**e, n).astype(np.float32).view(np.uint32)
             for e in (-3, 0, 2) for n in (1, 2, 63)]
    wild = [rng.integers(0, 1 << 32, 64, np.uint32), SPECIAL]
    single = [SPECIAL[i : i + 1] for i in range(SPECIAL.size)]
    mixed = [np.concatenate([plain[2][:9], SPECIAL[i : i + 1], plain[5][:5]]) for i in range(SPECIAL.size)]
    tiny = [(rng.integers(0, 1 << 32, 40, np.uint32) & 0x80FFFFFF) | e << 23 for e in (1, 30, 60, 63)]
    return [ref.from_bits(x) for x in plain + wild + single + mixed + tiny]


def same(got, want) -> bool:
    got, want = np.asarray(got), np.asarray(want)
    return np.array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_short_ways_equal_float_ref():
    for a in patterns(8):
        for name in ("exp2", "recip", "rsqrt"):
            assert same(getattr(fast, name)(a), getattr(ref, name)(a)), (name, a)
        for bits in (4, 8, 16):
            assert same(fast.to_int(a, bits), ref.float_to_int(a, bits)), a
        for b in [x for x in patterns(9) if x.size in (1, a.size)] + [a, -a]:
            assert same(fast.mul(a, b), ref.mul(a, b)), (a, b)
            assert same(fast.add(a, b), ref.add(a, b)), (a, b)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 500])
def test_short_sum_equals_float_ref(size):
    rng = np.random.default_rng(size)
    for special in (*SPECIAL, None):
        x = rng.normal(0, 1, size).astype(np.float32)
        if special is not None and size:
            x.view(np.uint32)[rng.integers(size)] = special
        assert same(fast.row_sum(x), ref.row_sum(x)), (special, x)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_element_that_is_not_there_leaves_a_partial_sum_of_minus_zero_alone():
    x = np.zeros(257, np.float32)
    x[:128], x[128:256], x[256] = -1.5 * 2.0**-126, 2.0**-126, -0.0
    assert int(ref.to_bits(fast.row_sum(x))) == 0x80000000
