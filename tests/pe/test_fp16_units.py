# amaranth: UnusedElaboratable=no
"""The PEs with FP16 activations: bit for bit against their references, timing as declared, with gaps between steps."""

import random
from fractions import Fraction

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from wordline.pe.bit_serial import TERMS, encode_term
from wordline.pe.bit_serial_fp16 import LANES, BitSerialFp16, SerialScale, terms
from wordline.pe.datatypes import KIND_BITS, WeightKind, decode_table
from wordline.pe.float_sum import RunningSum, half_ints, round_even, shift_right_jam, ulps
from wordline.pe.fp16_dot import Fp16Dot
from wordline.pe.fp16_mac import Fp16Mac
from wordline.pe.lut import folded
from wordline.pe.lut_fp16 import ENTRIES, K, LutFp16Column, TableFp16
from wordline.pe.shift_add_fp16 import ShiftAddFp16

SEED = 1
#: FP16 bits: zero, subnormals, the smallest normal number and its neighbour, about one, the largest.
SPECIAL = [0x0000, 0x0001, 0x0002, 0x03FF, 0x0400, 0x0401, 0x3BFF, 0x3C00, 0x7BFF]


def halves(rng: np.random.Generator, n: int, style: int) -> np.ndarray:
    """uint16[n] FP16 bits: like activations, all magnitudes alike, special ones, or values that cancel."""
    if style == 0:
        return rng.standard_t(3, n).astype(np.float16).view(np.uint16)
    if style == 1:
        bits = rng.integers(0, 0x7C00, n)
    elif style == 2:
        bits = rng.choice(SPECIAL, n)
    else:
        bits = np.resize(rng.integers(0, 0x7C00, (n + 1) // 2).repeat(2) + np.tile([0, 0x8000], (n + 1) // 2), n)
        return bits.astype(np.uint16)
    return (bits | rng.integers(0, 2, n) << 15).astype(np.uint16)


def run(dut, steps: list[dict], lasts: list[bool], outputs, gaps: float, constant: dict | None = None) -> list:
    """Feeds steps with random gaps; the outputs at `done`, and checks that each comes `latency` after its last."""
    dice, results, ends, times = random.Random(SEED), [], [], []

    async def feed(ctx):
        for name, value in (constant or {}).items():
            ctx.set(getattr(dut, name), value)
        cycle = 0
        for step, last in zip(steps, lasts, strict=True):
            while dice.random() < gaps:
                ctx.set(dut.valid, 0)
                ctx.set(dut.step, {name: step[name] for name in step} | {"last": 1})  # must be ignored
                await ctx.tick()
                cycle += 1
            ctx.set(dut.valid, 1)
            ctx.set(dut.step, step | {"last": last})
            if last:
                ends.append(cycle)
            await ctx.tick()
            cycle += 1
        ctx.set(dut.valid, 0)
        await ctx.tick().repeat(dut.latency + 3)

    async def watch(ctx):
        cycle = 0
        async for *_, done, values in ctx.tick().sample(dut.done, outputs(dut)):
            if done:
                results.append(values)
                times.append(cycle)
            cycle += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(feed)
    simulator.add_testbench(watch, background=True)
    simulator.run()
    assert [t - e for t, e in zip(times, ends, strict=True)] == [dut.latency] * len(ends)
    return results


def sums(dut) -> data.View:
    return dut.sum


def pair(view) -> tuple[int, int]:
    return view.significand, view.exponent


@pytest.mark.parametrize("gaps", [0.0, 0.4])
@pytest.mark.parametrize("subnormals", [False, True])
def test_fp16_mac_is_numpys_float32(subnormals, gaps):
    rng = np.random.default_rng(SEED)
    groups = []
    for i in range(160):
        n = int(rng.choice([1, 2, 3, 17]))
        groups.append((halves(rng, n, i % 4), halves(rng, n, (i // 4) % 3)))
    dut = Fp16Mac(subnormals=subnormals)
    steps = [{"act": int(a), "weight": int(w)} for acts, weights in groups for a, w in zip(acts, weights, strict=True)]
    lasts = [k == len(acts) - 1 for acts, _ in groups for k in range(len(acts))]
    got = run(dut, steps, lasts, sums, gaps)
    for (acts, weights), view in zip(groups, got, strict=True):
        want = Fp16Mac.reference(acts.view(np.float16), weights.view(np.float16), subnormals)
        assert Fp16Mac.value(*pair(view)) == Fraction(float(want)), (acts, weights)


@pytest.mark.parametrize("bits, addend_bits, guard", [(24, 17, 3), (24, 23, 4), (12, 9, 3), (16, 17, 3)])
def test_running_sum_is_its_reference(bits, addend_bits, guard):
    rng = np.random.default_rng(SEED)
    dut = RunningSum(bits=bits, addend_bits=addend_bits, guard=guard)
    low = RunningSum.bias(bits, guard)
    groups = []
    for i in range(200):
        n = int(rng.choice([1, 2, 5, 20]))
        wide = int(rng.integers(1, addend_bits))
        addends = [int(v) for v in rng.integers(-(1 << wide - 1), 1 << wide - 1, n)] if wide > 1 else [0] * n
        if i % 3 == 0:  # what came is taken away again
            addends = [a if k % 2 == 0 else -addends[k - 1] for k, a in enumerate(addends)]
        near = int(rng.choice([1, 4, 40]))
        exponents = [low + int(rng.integers(0, near)) for _ in range(n)]
        groups.append([(a, e if a else 0) for a, e in zip(addends, exponents, strict=True)])

    class Bench(wiring.Component):
        latency = 1

        def __init__(self):
            step = data.StructLayout({"addend": dut.addend.shape(), "exponent": 7, "last": 1})
            super().__init__({"valid": In(1), "step": In(step), "done": Out(1), "sum": Out(dut.sum.shape())})

        def elaborate(self, platform):
            m = Module()
            m.submodules.dut = dut
            m.d.comb += [dut.valid.eq(self.valid), dut.last.eq(self.step.last), dut.addend.eq(self.step.addend),
                         dut.exponent.eq(self.step.exponent), self.done.eq(dut.done), self.sum.eq(dut.sum)]
            return m

    steps = [{"addend": a, "exponent": e} for group in groups for a, e in group]
    lasts = [k == len(group) - 1 for group in groups for k in range(len(group))]
    got = run(Bench(), steps, lasts, sums, 0.2)
    for group, view in zip(groups, got, strict=True):
        assert pair(view) == RunningSum.reference(group, bits, addend_bits, guard), group


def test_a_sum_that_fits_is_exact():
    # No rounding can hide a wrong exponent: small integers, all bits kept.
    rng = np.random.default_rng(SEED)
    low = RunningSum.bias(24)
    for _ in range(300):
        group = [(int(a), low + int(e)) for a, e in zip(rng.integers(-99, 100, 6), rng.integers(0, 6, 6), strict=True)]
        significand, exponent = RunningSum.reference([(a, e if a else 0) for a, e in group], 24, 17)
        true = sum(Fraction(a) * 2**8 * Fraction(2) ** e for a, e in group)
        assert significand * Fraction(2) ** exponent == true


class Encoded(wiring.Component):
    """BitMoD's PE behind the encoder: takes codes and the number of the term."""

    def __init__(self, bits: int, kinds: frozenset[WeightKind]):
        self.pe, self.kinds, self.latency = BitSerialFp16(bits=bits), kinds, BitSerialFp16.latency
        step = {"acts": data.ArrayLayout(16, LANES), "codes": data.ArrayLayout(8, LANES), "kind": WeightKind,
                "select": 2, "index": 2, "significance": 3, "scale": 8, "last": 1}
        result = data.StructLayout({"product": self.pe.product.shape(), "exponent": 7})
        super().__init__({"valid": In(1), "step": In(data.StructLayout(step)), "done": Out(1), "sum": Out(result)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.pe = pe = self.pe
        for i in range(LANES):
            term = encode_term(m, self.step.codes[i], self.step.kind, self.step.select, self.step.index, self.kinds,
                               f"term_{i}")
            m.d.comb += pe.step.terms[i].eq(term)
        m.d.comb += [
            pe.valid.eq(self.valid), pe.step.acts.eq(self.step.acts), pe.step.last.eq(self.step.last),
            pe.step.significance.eq(self.step.significance), pe.step.scale.eq(self.step.scale),
            self.done.eq(pe.done), self.sum.product.eq(pe.product), self.sum.exponent.eq(pe.exponent),
        ]
        return m


KINDS = [WeightKind.INT8, WeightKind.INT6, WeightKind.INT4, WeightKind.INT3, WeightKind.INT2, WeightKind.FP4,
         WeightKind.FP3]


@pytest.mark.parametrize("kind", KINDS)
def test_terms_make_the_value(kind):
    for select in range(4):
        for code, value in enumerate(decode_table(kind, select)):
            found = terms(code, kind, select)
            assert sum(sign * 2 ** (exp + significance) for sign, exp, significance in found) == value
            assert len(found) == TERMS[kind]


@pytest.mark.parametrize("bits, gaps", [(24, 0.0), (24, 0.3), (16, 0.0)])
def test_bit_serial_with_fp16_activations(bits, gaps):
    rng = np.random.default_rng(SEED)
    dut = Encoded(bits, frozenset(KINDS))
    groups, steps, lasts = [], [], []
    for i in range(56):
        kind, select, scale = KINDS[i % len(KINDS)], int(rng.integers(4)), int(rng.choice([1, 77, 128, 255]))
        n = LANES * int(rng.choice([2, 3, 5])) * (4 if kind is WeightKind.INT2 else 2)  # at least 8 cycles
        acts, codes = halves(rng, n, i % 4), rng.integers(0, 1 << KIND_BITS[kind], n)
        groups.append((acts, codes, kind, select, scale))
        for at in range(0, n, LANES):
            significances = [s for _, _, s in terms(0, kind)]
            for index, significance in enumerate(significances):
                steps.append({"acts": [int(a) for a in acts[at : at + LANES]],
                              "codes": [int(c) for c in codes[at : at + LANES]], "kind": kind, "select": select,
                              "index": index, "significance": significance, "scale": scale})
                lasts.append(at + LANES == n and index == len(significances) - 1)
    got = run(dut, steps, lasts, sums, gaps)
    for group, view in zip(groups, got, strict=True):
        assert (view.product, view.exponent) == dut.pe.reference(*group), group


def test_scale_by_bits_is_a_product():
    rng = np.random.default_rng(SEED)
    dut = SerialScale(bits=9)
    cases = [(int(s), int(f)) for s in (-256, -255, -1, 0, 1, 255) for f in (0, 1, 128, 255)]
    cases += [(int(rng.integers(-256, 256)), int(rng.integers(256))) for _ in range(60)]
    got = []

    async def bench(ctx):
        for significand, factor in cases:
            ctx.set(dut.significand, significand)
            ctx.set(dut.scale, factor)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            ctx.set(dut.significand, -1)
            ctx.set(dut.scale, 0xAA)
            await ctx.tick().repeat(dut.latency - 1)
            got.append((ctx.get(dut.done), ctx.get(dut.product)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert got == [(1, s * f) for s, f in cases]


@pytest.mark.parametrize("make, weight", [(ShiftAddFp16, "int4"), (Fp16Dot, "fp16")])
def test_dots_of_four(make, weight):
    rng = np.random.default_rng(SEED)
    dut = make(bits=24)
    groups = []
    for i in range(120):
        n = LANES * int(rng.choice([1, 2, 9]))
        weights = rng.integers(-8, 8, n) if weight == "int4" else halves(rng, n, (i // 4) % 3)
        groups.append((halves(rng, n, i % 4), weights))
    steps = [{"acts": [int(a) for a in acts[k : k + LANES]], "weights": [int(w) for w in weights[k : k + LANES]]}
             for acts, weights in groups for k in range(0, len(acts), LANES)]
    lasts = [k + LANES == len(acts) for acts, _ in groups for k in range(0, len(acts), LANES)]
    got = run(dut, steps, lasts, sums, 0.2)
    for group, view in zip(groups, got, strict=True):
        assert pair(view) == dut.group_reference(*group), group


def test_table_of_fp16_sums():
    rng = np.random.default_rng(SEED)
    dut = TableFp16()
    cases = [halves(rng, K, i % 4) for i in range(120)] + [np.zeros(K, np.uint16), np.full(K, 0x7BFF, np.uint16)]
    got = []

    async def bench(ctx):
        for acts in cases:
            ctx.set(dut.acts, [int(a) for a in acts])
            ctx.set(dut.valid, 1)
            await ctx.tick()
            ctx.set(dut.valid, 0)
            ctx.set(dut.acts, [0x3C00] * K)
            assert not ctx.get(dut.done)
            await ctx.tick()
            assert ctx.get(dut.done)
            entries = ctx.get(dut.entries)
            got.append([(-e.magnitude if e.sign else e.magnitude, e.exponent)
                        for e in (entries[i] for i in range(ENTRIES))])

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    for acts, entries in zip(cases, got, strict=True):
        assert entries == TableFp16.reference(acts), acts


def test_table_entries_are_within_the_rounding():
    rng = np.random.default_rng(SEED)
    unit = LutFp16Column().unit + 24 + 1 - 12 + RunningSum.bias(24)
    for i in range(400):
        acts = halves(rng, K, i % 3)
        exact = [Fraction(float(a)) for a in acts.view(np.float16)]
        largest = max(abs(a) for a in exact)
        for index, (magnitude, exponent) in enumerate(TableFp16.reference(acts)):
            true = exact[3] + sum(a if index >> k & 1 else -a for k, a in enumerate(exact[:3]))
            error = abs(magnitude * Fraction(2) ** (exponent + unit) - true)
            assert error <= abs(true) / 2**11 + 4 * largest / 2**13


def test_folded_look_ups_are_all_sixteen_sums():
    acts = np.array([0x3C00, 0x4000, 0x4400, 0x4800], np.uint16)  # 1, 2, 4, 8
    table = TableFp16.reference(acts)
    unit = LutFp16Column().unit + 24 + 1 - 12 + RunningSum.bias(24)
    for bits in range(16):
        index, negate = folded(bits, K)
        magnitude, exponent = table[index]
        value = (-magnitude if negate else magnitude) * Fraction(2) ** (exponent + unit)
        assert value == sum(2**k if bits >> k & 1 else -(2**k) for k in range(K))


@pytest.mark.parametrize("weight_bits", [1, 2, 4, 8])
def test_lut_column(weight_bits):
    rng = np.random.default_rng(SEED)
    dut = LutFp16Column()
    acts = halves(rng, K, 0)
    table = TableFp16.reference(acts)
    lengths = rng.choice([1, 3, 9], 40)
    groups = [[(int(rng.integers(16)), plane) for _ in range(n) for plane in range(weight_bits)] for n in lengths]
    steps = [dict(zip(("index", "negate"), folded(bits, K), strict=True)) | {"plane": plane}
             for group in groups for bits, plane in group]
    lasts = [k == len(g) - 1 for g in groups for k in range(len(g))]
    entries = [{"sign": m < 0, "magnitude": abs(m), "exponent": e} for m, e in table]
    got = run(dut, steps, lasts, sums, 0.2, {"entries": entries})
    for group, view in zip(groups, got, strict=True):
        assert pair(view) == dut.reference((table, bits, plane) for bits, plane in group), group


def test_helpers_round_as_ieee_does():
    for value in range(-40, 41):
        assert round_even(value, 3) == round(Fraction(value, 8))
        assert shift_right_jam(value, 2) == value // 4 | (value % 4 != 0)
    for bits in [*SPECIAL, *range(0, 0x7C00, 37)]:
        significand, exponent = half_ints(bits)
        assert significand * 2.0 ** (exponent - 25) == np.array(bits, np.uint16).view(np.float16)
    assert ulps(Fraction(1025, 1024), Fraction(1), 11) == 1.0
    assert ulps(Fraction(2047, 1024), Fraction(2045, 1024), 11) == 2.0
    with pytest.raises(ValueError, match="zero is not defined"):
        ulps(Fraction(1), Fraction(0), 11)


def test_impossible_widths_are_refused():
    with pytest.raises(ValueError, match="addend_bits must be at most bits \\+ 1 = 17, not 18"):
        RunningSum(bits=16, addend_bits=18)


def test_errors_against_exact_arithmetic():
    # A step loses less than a unit of the last kept bit in each lane that is not the largest: 3 lanes, 13 places below
    # the largest term's leading bit. Roundings of the running sum come to at most 1/2 unit of it each.
    rng = np.random.default_rng(SEED)
    mac, shift_add, bit_serial = Fp16Mac(), ShiftAddFp16(), BitSerialFp16(bits=24)
    inexact = [0, 0, 0]
    for _ in range(40):
        n = 64
        acts = halves(rng, n, 0)
        real = [Fraction(float(a)) for a in acts.view(np.float16)]
        codes = rng.integers(0, 16, n)
        table = decode_table(WeightKind.FP4, 1)
        cases = [
            (shift_add.value(*shift_add.group_reference(acts, codes - 8)), codes - 8, 3 * 2**-13),
            (bit_serial.value(*bit_serial.reference(acts, codes, WeightKind.FP4, 1, 1)), table[codes], 3 * 2**-13),
            (Fraction(float(mac.reference(acts.view(np.float16), codes.astype(np.float16), True))), codes, 0.0),
        ]
        for i, (got, weights, aligned) in enumerate(cases):
            true = sum(a * int(w) for a, w in zip(real, weights, strict=True))
            size = sum(abs(a * int(w)) for a, w in zip(real, weights, strict=True))
            assert abs(got - true) <= size * Fraction(aligned + 2 * n * 2.0**-24)
            inexact[i] += got != true
    assert min(inexact[:2]) > 10  # there is something to bound
