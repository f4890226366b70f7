"""Float32 units: the reference against float64, the hardware against the reference, bit for bit."""

import hashlib

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator

from wordline.rtl import float_ref as ref
from wordline.rtl.float_add import FloatAdd
from wordline.rtl.float_convert import FloatToInt, IntToFloat, int8_to_float
from wordline.rtl.float_mul import FloatMul
from wordline.rtl.isa import Function, IntBits
from wordline.rtl.sfu import SpecialFunction

SPECIAL = np.array([
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x80800000, 0x00800001, 0x3F800000,
    0xBF800000, 0x3F800001, 0x3F7FFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
    0x7F800001, 0xFFFFFFFF, 0x4B000000, 0x4B7FFFFF, 0x33800000, 0x33800001, 0x34000000, 0x20000000,
    0x1FFFFFFF, 0x5F000000, 0x42FE0000, 0x43000000, 0xC3000000, 0xC2FC0000], np.uint32)


def vectors(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of bit patterns: all pairs of special values, random ones, near and far exponents, ties."""
    rng = np.random.default_rng(seed)
    a, b = (x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL))
    ra, rb = rng.integers(0, 1 << 32, (2, n), np.uint32)
    near = (ra & 0x7FFFFF) | (100 + (ra >> 24 & 7)) << 23
    near_b = (rb & 0x807FFFFF) | (100 + (rb >> 24 & 31)) << 23
    short = near & 0xFFFFF000  # few bits: exact ties become likely
    flip = near ^ (1 << 31) ^ (rb & 3)  # almost cancels
    return (np.concatenate([a, ra, near, short, near]).astype(np.uint32),
            np.concatenate([b, rb, near_b, near_b & 0xFFFFF000, flip]).astype(np.uint32))


def run(unit, inputs: dict[str, np.ndarray], *, latency: int) -> list[int]:
    """One input a cycle; the outputs, `latency` cycles later."""
    out = []
    n = len(next(iter(inputs.values())))

    async def bench(ctx):
        for i in range(n + latency):
            for name, values in inputs.items():
                ctx.set(getattr(unit, name), int(values[min(i, n - 1)]))
            if i >= latency:
                out.append(ctx.get(unit.o))
            await ctx.tick()

    sim = Simulator(unit)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
    return out


def assert_same(got, want: np.ndarray, *inputs) -> None:
    got = np.array(got, np.int64) & 0xFFFFFFFF
    want = np.asarray(want).astype(np.int64) & 0xFFFFFFFF
    bad = np.flatnonzero(got != want)
    where = [f"{int(x[bad[0]]) & 0xFFFFFFFF:08x}" for x in inputs] if bad.size else []
    assert not bad.size, f"{bad.size} differ; first {where}: {got[bad[0]]:08x} not {want[bad[0]]:08x}"


def exact_round(exact: np.ndarray) -> np.ndarray:
    """float64 values that are exact, to float32 bits, flushed below 2^-126."""
    with np.errstate(all="ignore"):
        r = exact.astype(np.float32)
    r = np.where(np.abs(exact) < 2.0**-126, np.copysign(np.float32(0), r), r)
    return np.where(np.isnan(r), 0x7FC00000, ref.to_bits(r))


def test_reference_multiply_and_add_are_exactly_rounded():
    a, b = vectors(1, 100000)
    zero = lambda x: np.where((x & 0x7F800000) == 0, x & 0x80000000, x).astype(np.uint32)  # noqa: E731
    with np.errstate(all="ignore"):
        fa, fb = (ref.from_bits(zero(x)).astype(np.float64) for x in (a, b))
        assert_same(ref.to_bits(ref.mul(ref.from_bits(a), ref.from_bits(b))), exact_round(fa * fb), a, b)
        # longdouble holds sums of near exponents exactly
        total = fa.astype(np.longdouble) + fb
    near = np.abs((a >> 23 & 255).astype(int) - (b >> 23 & 255).astype(int)) < 35
    got = ref.to_bits(ref.add(ref.from_bits(a), ref.from_bits(b)))
    assert_same(got[near], exact_round(total)[near], a[near], b[near])


@pytest.mark.parametrize(("unit", "function"), [(FloatAdd, ref.add), (FloatMul, ref.mul)])
def test_add_and_multiply_equal_the_reference(unit, function):
    a, b = vectors(2, 700)
    got = run(unit(), {"a": a, "b": b}, latency=unit.latency)
    assert_same(got, ref.to_bits(function(ref.from_bits(a), ref.from_bits(b))), a, b)


@pytest.mark.parametrize("name", ["exp2", "recip", "rsqrt"])
def test_special_functions_equal_the_reference(name):
    rng = np.random.default_rng(3)
    small = ref.to_bits(rng.normal(0, 20, 1500).astype(np.float32))
    a = np.concatenate([SPECIAL, vectors(3, 400)[0][-1600:], small,
                        np.arange(0x3F800000, 0x3F800000 + (1 << 23), 9973, dtype=np.uint32)])
    function = np.full(a.size, Function[name.upper()])
    got = run(SpecialFunction(), {"a": a, "function": function}, latency=SpecialFunction.latency)
    assert_same(got, ref.to_bits(getattr(ref, name)(ref.from_bits(a))), a)


def test_special_functions_are_accurate_to_4_ulp_over_every_mantissa():
    x = ref.from_bits(np.arange(1 << 23, dtype=np.uint32) | np.uint32(127 << 23))
    cases = [(ref.recip, x, lambda v: 1 / v), (ref.rsqrt, x, lambda v: v**-0.5),
             (ref.rsqrt, x * 2, lambda v: v**-0.5), (ref.exp2, x - 1, np.exp2), (ref.exp2, -x, np.exp2)]
    for function, argument, exact in cases:
        want = exact(argument.astype(np.float64))
        error = np.abs(function(argument) - want) / np.spacing(want.astype(np.float32))
        assert error.max() < 4, function.__name__
    assert (ref.exp2(-x) <= 1).all() and ref.exp2(np.float32(0)) == 1


@pytest.mark.parametrize("bits", list(IntBits))
def test_float_to_int_equals_the_reference(bits):
    rng = np.random.default_rng(4)
    halves = (np.arange(-300, 300) / 2).astype(np.float32)
    wide = (rng.normal(0, 1, 1000) * 10.0 ** rng.uniform(-6, 6, 1000)).astype(np.float32)
    edge = np.float32([32766.5, 32767.49, 32767.5, 32768, 65535, 7.5, 7.49, 127.49, 127.5, 0.5, 0.50001, 1.5])
    a = np.concatenate([SPECIAL, ref.to_bits(halves), ref.to_bits(wide), ref.to_bits(edge), ref.to_bits(-edge)])
    got = run(FloatToInt(), {"a": a, "bits": np.full(a.size, bits)}, latency=FloatToInt.latency)
    assert_same(got, ref.float_to_int(ref.from_bits(a), int(IntBits(bits).name[1:])), a)


@pytest.mark.parametrize("width", [24, 48, 64])
def test_int_to_float_equals_the_reference(width):
    rng = np.random.default_rng(5)
    a = rng.integers(-(1 << width - 1), (1 << width - 1) - 1, 600, endpoint=True)
    a = np.concatenate([a >> rng.integers(0, width, 600), [0, 1, -1, -(1 << width - 1), (1 << width - 1) - 1],
                        [s * ((1 << 23) + k) << j for s in (1, -1) for k in range(4)
                         for j in range(min(3, width - 24))]])
    got = run(IntToFloat(width), {"a": a}, latency=IntToFloat.latency)
    assert_same(got, ref.to_bits(ref.int_to_float(a)), a)


def test_int8_widens_exactly():
    m, a = Module(), Signal(8)
    o = int8_to_float(a, m, "x")

    async def bench(ctx):
        for value in range(-128, 128):
            ctx.set(a, value & 255)
            assert ctx.get(o) == int(ref.to_bits(np.float32(value)))

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()


def test_sum_order_is_the_canonical_one():
    x = np.random.default_rng(6).normal(0, 1, 1000).astype(np.float32)
    partial = np.zeros(128, np.float32)
    for i, v in enumerate(x):
        partial[i % 128] = np.float32(partial[i % 128] + v)
    for half in (64, 32, 16, 8, 4, 2, 1):
        for i in range(half):
            partial[i] = np.float32(partial[i] + partial[i + half])
    assert ref.row_sum(x) == partial[0]
    assert ref.row_sum(x[::-1]) != partial[0]


def test_tables_are_the_same_on_every_machine():
    # A changed coefficient changes results everywhere, and old logits could not be compared with new ones.
    digest = hashlib.sha256(ref.special_tables().astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("4378273212f4a62f")


def test_short_cuts_of_the_reference_change_no_bit():
    """Where no product is near the subnormals, none is looked for; the same pairs among others go the long way."""
    a, b = (ref.from_bits(x) for x in vectors(5, 20000))
    product = ref.mul(a, b)
    with np.errstate(all="ignore"):
        safe = np.abs(product) >= np.float32(2.0**-125)
    assert safe.sum() > 10000
    edge = np.float32([2.0**-63, 1.9999999 * 2.0**-63, 2.0**-62])  # products from 2^-126 on
    for x, y in [(a[safe], b[safe]), *((edge[i : i + 1], edge[j : j + 1]) for i in range(3) for j in range(3))]:
        alone = ref.mul(x, y)
        among = ref.mul(np.append(x, np.float32(1e-30)), np.append(y, np.float32(1e-30)))[:-1]
        assert np.array_equal(ref.to_bits(alone), ref.to_bits(among))
    assert np.array_equal(ref.to_bits(ref.flush(a[safe])), ref.to_bits(ref.flush(np.append(a[safe], 0))[:-1]))
