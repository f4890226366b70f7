"""The bench every PE family runs through: random groups, random stalls on all three streams."""

import json
import os
import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from wordline.pe.datatypes import WeightKind
from wordline.pe.family import PeColumn, act_layout, family
from wordline.sim.pe_verify import STALLS, random_groups

PARAMETERS = json.loads(os.environ.get("PE_BENCH", "{}"))
KINDS = PARAMETERS.get("kinds", ["INT8"])


def column() -> PeColumn:
    p = PARAMETERS
    return family(p["family"])(rows=p["rows"], lanes=p["lanes"], act_bits=p["act_bits"],
                               kinds=frozenset(WeightKind[k] for k in p["kinds"]), group_max=p["group_max"])


async def bench(dut, kinds: list[WeightKind], stall: str, n: int) -> None:
    """Runs n groups of kinds in turn through the column; without stalls, compares its timing too."""
    p = PARAMETERS
    pe = column()
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    dice = random.Random(cocotb.RANDOM_SEED)
    lanes, rows = p["lanes"], p["rows"]
    acts_shape = act_layout(rows, lanes, p["act_bits"])
    step_shape = pe.weights.payload.shape()
    dot_shape = pe.dots.payload.shape()
    hold = dict(zip(("acts", "weights", "dots"), STALLS[stall], strict=True))
    groups = random_groups(pe, kinds, n, rng)
    steps = []  # acts, weights, last, kind
    for acts, codes, kind, select in groups:
        for s in range(0, codes.size, lanes):
            a = acts_shape.const([[int(v) for v in row[s : s + lanes]] for row in acts]).as_value().value
            w = step_shape.const({"codes": [int(c) for c in codes[s : s + lanes]], "kind": kind,
                                  "select": select, "last": s + lanes == codes.size}).as_value().value
            steps.append((a, w, s + lanes == codes.size, kind))
    expected = [pe.reference(acts, codes, kind, select) for acts, codes, kind, select in groups]

    Clock(dut.clk, 10, unit="ns").start()
    dut.rst.value = 1
    for name in ("acts__valid", "weights__valid", "dots__ready"):
        dut[name].value = 0
    for _ in range(2):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    taken, results = [], []  # cycles in which a step and a result were transferred
    at = {"acts": 0, "weights": 0}
    offered = {"acts": False, "weights": False}
    held = None
    for cycle in range(200 * len(steps) + 200):
        for name, i in (("acts", 0), ("weights", 1)):
            # Once offered, a step stays until it is taken.
            offered[name] |= dice.random() >= hold[name]
            ok = offered[name] and at[name] < len(steps)
            dut[f"{name}__valid"].value = int(ok)
            if ok:
                dut[f"{name}__payload"].value = steps[at[name]][i]
        dut["dots__ready"].value = int(dice.random() >= hold["dots"])
        await RisingEdge(dut.clk)  # values read below are those just before this edge
        moved = [int(dut[f"{n}__valid"].value) and int(dut[f"{n}__ready"].value) for n in at]
        assert moved[0] == moved[1], "a step must be taken from both streams at once"
        if moved[0]:
            taken.append(cycle)
            for name in at:
                at[name] += 1
                offered[name] = False
        valid, payload = int(dut["dots__valid"].value), int(dut["dots__payload"].value)
        assert held is None or (valid and payload == held), "a result changed before it was taken"
        held = None
        if valid and not int(dut["dots__ready"].value):
            held = payload
        elif valid:
            assert len(results) < len(groups), "a result too many"
            got = [int(dot_shape.from_bits(payload)[r]) for r in range(rows)]
            want = [int(v) for v in expected[len(results)]]
            assert got == want, f"group {len(results)} of {groups[len(results)][2].name}: {got} not {want}"
            results.append(cycle)
        if len(results) == len(groups) and cycle > results[-1] + 20:
            break
    assert len(results) == len(groups), f"only {len(results)} of {len(groups)} groups came out"
    if stall == "none":
        timing = {kind: pe.timing(kind, lanes, p["act_bits"]) for kind in kinds}
        for (*_, kind), a, b in zip(steps, taken, taken[1:], strict=False):
            assert b - a == timing[kind].interval, f"{kind.name}: {b - a} cycles between steps"
        ends = [cycle for (_, _, last, _), cycle in zip(steps, taken, strict=True) if last]
        for (_, _, kind, _), a, b in zip(groups, ends, results, strict=True):
            assert b - a == timing[kind].latency, f"{kind.name}: {b - a} cycles from end to result"


@cocotb.test()
@cocotb.parametrize(kind=KINDS, stall=["none", "all"])
async def dot_products(dut, kind, stall):
    await bench(dut, [WeightKind[kind]], stall, 30)


@cocotb.test()
@cocotb.parametrize(stall=list(STALLS))
async def groups_of_every_kind_in_turn(dut, stall):
    kinds = [WeightKind[k] for k in KINDS]
    random.Random(cocotb.RANDOM_SEED).shuffle(kinds)
    await bench(dut, kinds, stall, 40)
