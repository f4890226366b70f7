"""The bench every PE family runs through: random groups, random stalls on all three streams."""

import json
import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from wordline.pe.datatypes import KIND_BITS, WeightKind
from wordline.pe.family import PeColumn, family

PARAMETERS = json.loads(os.environ.get("PE_BENCH", "{}"))


def column() -> PeColumn:
    p = PARAMETERS
    return family(p["family"])(rows=p["rows"], lanes=p["lanes"], act_bits=p["act_bits"],
                               kinds=frozenset(WeightKind[k] for k in p["kinds"]), group_max=p["group_max"])


def make_groups(rng: np.random.Generator, kind: WeightKind, n: int) -> list[tuple]:
    """(acts[rows, K], codes[K], select) of random lengths, with extremes among them."""
    p = PARAMETERS
    top = 1 << (p["act_bits"] - 1)
    groups = []
    for i in range(n):
        steps = int(rng.choice([1, 2, 3, p["group_max"] // p["lanes"]]))
        k = steps * p["lanes"]
        acts = rng.integers(-top, top, (p["rows"], k))
        codes = rng.integers(0, 1 << KIND_BITS[kind], k).astype(np.uint8)
        if i % 5 == 1:
            acts[:] = -top
            codes[:] = 1 << (KIND_BITS[kind] - 1)  # most negative integer, or the special value
        elif i % 5 == 2:
            codes = np.resize(np.arange(1 << KIND_BITS[kind], dtype=np.uint8), k)
        groups.append((acts, codes, int(rng.integers(4))))
    return groups


async def bench(dut, kind: WeightKind, stall: float, n: int) -> tuple[list[int], list[int]]:
    """Runs groups through the column; returns cycles of the last acceptance of each group and of each
    result, and of every acceptance of a step through the list ``dut`` test functions inspect."""
    p = PARAMETERS
    pe = column()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    dice = random.Random(cocotb.RANDOM_SEED)
    lanes, rows = p["lanes"], p["rows"]
    acts_shape = pe.acts.payload.shape()
    step_shape = pe.weights.payload.shape()
    dot_shape = pe.dots.payload.shape()
    groups = make_groups(rng, kind, n)
    steps = []
    for acts, codes, select in groups:
        for s in range(0, codes.size, lanes):
            a = acts_shape.const([[int(v) for v in row[s : s + lanes]] for row in acts]).as_value().value
            w = step_shape.const({"codes": [int(c) for c in codes[s : s + lanes]], "kind": kind,
                                  "select": select, "last": s + lanes == codes.size}).as_value().value
            steps.append((a, w, s + lanes == codes.size))
    expected = [pe.reference(a, c, kind, s) for a, c, s in groups]

    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    for name in ("acts__valid", "weights__valid", "dots__ready"):
        dut[name].value = 0
    for _ in range(2):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    accepted, results, taken = [], [], []
    at = {"acts": 0, "weights": 0}
    offered = {"acts": False, "weights": False}
    held = None
    for cycle in range(200 * len(steps) + 200):
        for name, i in (("acts", 0), ("weights", 1)):
            # Once offered, a step stays until it is taken.
            offered[name] |= dice.random() >= stall
            ok = offered[name] and at[name] < len(steps)
            dut[f"{name}__valid"].value = int(ok)
            if ok:
                dut[f"{name}__payload"].value = steps[at[name]][i]
        dut["dots__ready"].value = int(dice.random() >= stall)
        await RisingEdge(dut.clk)  # values read below are those just before this edge
        moved = [int(dut[f"{n}__valid"].value) and int(dut[f"{n}__ready"].value) for n in at]
        assert moved[0] == moved[1], "a step must be taken from both streams at once"
        if moved[0]:
            taken.append(cycle)
            if steps[at["acts"]][2]:
                accepted.append(cycle)
            for name in at:
                at[name] += 1
                offered[name] = False
        if int(dut["dots__valid"].value):
            payload = int(dut["dots__payload"].value)
            assert held in (None, payload), "a result changed before it was taken"
            held = payload
            if int(dut["dots__ready"].value):
                held = None
                got = [int(dot_shape.from_bits(payload)[r]) for r in range(rows)]
                want = [int(v) for v in expected[len(results)]]
                assert got == want, f"group {len(results)}: {got} not {want}"
                results.append(cycle)
                if len(results) == len(groups):
                    break
    assert len(results) == len(groups), f"only {len(results)} of {len(groups)} groups came out"
    bench.taken = taken
    return accepted, results


@cocotb.test()
@cocotb.parametrize(kind=PARAMETERS.get("kinds", ["INT8"]), stall=[0.0, 0.5])
async def dot_products(dut, kind, stall):
    await bench(dut, WeightKind[kind], stall, 40)


@cocotb.test()
@cocotb.parametrize(kind=PARAMETERS.get("kinds", ["INT8"]))
async def measured_timing_equals_declared(dut, kind):
    accepted, results = await bench(dut, WeightKind[kind], 0.0, 12)
    timing = column().timing(WeightKind[kind], PARAMETERS["lanes"])
    assert {b - a for a, b in zip(accepted, results, strict=True)} == {timing.latency}
    assert {b - a for a, b in zip(bench.taken, bench.taken[1:], strict=False)} == {timing.interval}
