"""Is every processing element the integer product, at the rate it declares? The proof behind ``wordline pe verify``.

For each family and kind of weight, on the Verilated column:

* **Lanes.** Where a lane's product depends on its own operands alone, every code times every activation is tried, for
  everything that a group can choose (special values, gaps of planes). Families that take lanes together
  (`PeColumn.coupled`) go through every combination at 4 bits if there are at most `EXHAUSTIVE`; else, in each bit
  plane, through every combination of that plane's bits and the activations, with the other planes at random.
* **Arrays.** Random groups of random lengths with extreme ones among them, without stalls and with stalls on every
  stream; of one kind, and of all kinds in turn. Without stalls every cycle is compared with the declared timing.
* **Formal** (if asked): `pe_proof`.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from wordline.pe.datatypes import KIND_BITS, PLANES, WEIGHT_TYPES, WeightKind, decode_table, selects
from wordline.pe.family import PeColumn, family
from wordline.sim import pe_proof
from wordline.sim.pe_machine import ColumnFault, ColumnMachine, Run
from wordline.sim.toolchain import ToolFailed

#: How something was verified.
HOW = {
    "exhaustive": "every code of a lane, or of lanes taken together, with every activation and choice of the group",
    "by plane": "of lanes taken together, in each bit plane, every bit with every activation, other planes at random",
    "random": "groups of random lengths under stalls, of one kind and of all kinds in turn",
    "formal": "proven by SAT: two groups of any code and 4-bit activation, right and in time",
}
#: Combinations of codes and activations that are still tried one and all.
EXHAUSTIVE = 1 << 24
#: Rows of the column on which lanes are tried: as many activations at once.
LANE_ROWS = 16
#: Probability that a stream holds back in a cycle: acts, weights, dots.
STALLS = {"none": (0.0, 0.0, 0.0), "all": (0.5, 0.5, 0.5), "acts": (0.8, 0.0, 0.0), "weights": (0.0, 0.8, 0.0),
          "dots": (0.0, 0.0, 0.9)}
#: Of the column that random groups go through; the longest group.
ROWS, LANES, GROUP = 2, 8, 64


@dataclass(frozen=True)
class Check:
    """One way in which a kind was verified: on how many cases, and what was found wrong, if anything."""

    how: str
    what: str
    cases: int
    fault: str = ""


@dataclass
class Report:
    """What is known of a family and a kind.

    Attributes
    ----------
    declared, measured : dict
        ``interval`` and ``latency`` of steps of the array's column, and cycles of a group of `group` weights.
    """

    family: str
    kind: str
    types: list[str]
    group: int
    declared: dict[str, int]
    measured: dict[str, int] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.checks) and self.measured == self.declared and not any(check.fault for check in self.checks)

    def record(self) -> dict:
        return asdict(self) | {"passed": self.passed}


def verify(name: str, *, act_bits: int = 8, formal: bool = False, seed: int = 1, groups: int = 300,
           say: Callable[[str], None] = lambda message: None,
           progress: Callable[[Report], None] = lambda report: None) -> Iterator[Report]:
    """A report for each kind of a family, in turn.

    Parameters
    ----------
    act_bits : of an activation
    formal : also prove what SAT can, which takes seconds a kind
    groups : random groups of each kind for each pattern of stalls
    say, progress : told what is compiled; of each report that begins
    """
    cls = family(name)
    kinds = sorted(cls.KINDS)
    coupled = cls.coupled()
    array = ColumnMachine(cls(rows=ROWS, lanes=LANES, act_bits=act_bits, kinds=cls.KINDS, group_max=GROUP),
                          lambda: say(f"compiling a column of {name}"))
    lanes = ColumnMachine(cls(rows=LANE_ROWS, lanes=coupled, act_bits=act_bits if coupled == 1 else 4, kinds=cls.KINDS,
                              group_max=coupled), lambda: say(f"compiling lanes of {name}"))
    mixed = _mixed(array, kinds, groups, seed)
    for kind in kinds:
        timing = cls.timing(kind, LANES, act_bits)
        report = Report(name, kind.name, [n for n, t in WEIGHT_TYPES.items() if t.kind is kind], GROUP,
                        {"interval": timing.interval, "latency": timing.latency,
                         "group": GROUP // LANES * timing.interval})
        progress(report)
        report.checks.append(_lanes(lanes, kind, np.random.default_rng(seed)))
        report.checks += _arrays(array, kind, groups, seed, report)
        report.checks.append(mixed)
        if formal and coupled == 1:
            report.checks.append(_formal(name, kind))
        yield report


# --- Lanes.


def _lanes(machine: ColumnMachine, kind: WeightKind, rng: np.random.Generator) -> Check:
    pe = machine.pe
    bits, n, act_bits = KIND_BITS[kind], pe.lanes, pe.act_bits
    every = 1 << (bits + act_bits) * n
    picks, how = range(selects(kind)), "exhaustive"
    if every * len(picks) <= EXHAUSTIVE:
        what = f"{n} lane{'s' * (n > 1)}: 2^{bits * n} codes x 2^{act_bits * n} activations"
        codes = _digits(np.arange(1 << bits * n), bits, n)
        cases = [(codes, select) for select in picks]
    else:
        how, what = "by plane", f"{n} lanes, each of {bits} planes: 2^{n} bits x 2^{act_bits * n} activations"
        plane = _digits(np.arange(1 << n), 1, n)
        cases = []
        for select in picks:
            for p in range(bits):
                others = rng.integers(0, 1 << bits, plane.shape).astype(np.uint8) & ~np.uint8(1 << p)
                cases.append((others | plane << p, select))
    what += f" x {len(picks)} choices of the group" * (len(picks) > 1)
    tried = 0
    for codes, select in cases:
        for part in np.array_split(codes, max(1, (len(codes) << act_bits * n) // (1 << 22))):
            tried += len(part) << act_bits * n
            fault = _every_activation(machine, kind, part, select)
            if fault:
                return Check(how, what, tried, fault)
    return Check(how, what, tried)


def _digits(numbers: np.ndarray, bits: int, n: int) -> np.ndarray:
    """uint8[len, n]: n digits of so many bits of every number."""
    return (numbers[:, None] >> bits * np.arange(n) & (1 << bits) - 1).astype(np.uint8)


def _every_activation(machine: ColumnMachine, kind: WeightKind, codes: np.ndarray, select: int) -> str:
    """Codes [m, lanes], each with all activations of the lanes, a group a step."""
    pe = machine.pe
    top = 1 << pe.act_bits - 1
    acts = _digits(np.arange(1 << pe.act_bits * pe.lanes), pe.act_bits, pe.lanes).astype(np.int64)
    acts = np.where(acts >= top, acts - 2 * top, acts)
    steps = machine.pack(acts.reshape(-1, pe.rows, pe.lanes))  # of one code
    full = np.ones(len(codes) * len(steps), np.int64)
    try:
        run = machine.run(np.tile(steps, (len(codes), 1)), np.repeat(codes, len(steps), 0), full * int(kind),
                          full * select, full)
    except ColumnFault as fault:
        return str(fault)
    got = run.dots.reshape(len(codes), -1)
    expected = decode_table(kind, select).astype(np.int64)[codes] @ acts.T
    wrong = np.argwhere(got != expected)
    if wrong.size:
        c, a = wrong[0]
        return (f"codes {codes[c].tolist()} x {acts[a].tolist()}, choice {select}: {got[c, a]} not {expected[c, a]} "
                f"({len(wrong)} of {got.size} differ)")
    return ""


# --- Arrays.


def random_groups(pe: PeColumn, kinds: list[WeightKind], n: int, rng: np.random.Generator) -> list[tuple]:
    """(acts[rows, K], codes[K], kind, select): kinds in turn, random lengths; some reach the ends of every range."""
    longest, top = pe.group_max // pe.lanes, 1 << pe.act_bits - 1
    groups = []
    for i in range(n):
        kind, extreme = kinds[i % len(kinds)], i // len(kinds) % 6
        half = 1 << KIND_BITS[kind] - 1  # most negative integer, or the group's special value
        ends = (0, 2 * half - 1) if kind in PLANES else (half, half - 1)
        steps = longest if extreme in (1, 2, 3) else int(rng.choice([1, 2, 3, 5, longest]))
        k = min(steps, longest) * pe.lanes
        acts = rng.integers(-top, top, (pe.rows, k))
        codes = rng.integers(0, 2 * half, k).astype(np.uint8)
        if extreme in (1, 2, 3):
            acts[:] = top - 1 if extreme == 2 else -top
            codes[:] = ends[extreme == 3]
        elif extreme == 4:
            codes = np.resize(np.arange(2 * half, dtype=np.uint8), k)
        groups.append((acts, codes, kind, int(rng.integers(selects(kind)))))
    return groups


def run_groups(machine: ColumnMachine, groups: list[tuple], stall: str, seed: int) -> tuple[Run, str]:
    """The groups through the column, and what is wrong: dot products, or times if nothing stalls."""
    pe = machine.pe
    acts = np.concatenate([a.reshape(pe.rows, -1, pe.lanes).transpose(1, 0, 2) for a, *_ in groups])
    codes = np.concatenate([c.reshape(-1, pe.lanes) for _, c, *_ in groups])
    lengths = np.array([c.size // pe.lanes for _, c, *_ in groups])
    kinds, picks = (np.repeat([int(g[i]) for g in groups], lengths) for i in (2, 3))
    last = np.zeros(len(codes), np.int64)
    last[lengths.cumsum() - 1] = 1
    run = machine.run(machine.pack(acts), codes, kinds, picks, last, hold=STALLS[stall], seed=seed)
    expected = np.stack([pe.reference(*group) for group in groups])
    wrong = np.flatnonzero((run.dots != expected).any(1))
    if wrong.size:
        i = wrong[0]
        return run, f"group {i} of {groups[i][2].name}: {run.dots[i].tolist()} not {expected[i].tolist()}"
    if stall == "none":
        timing = {kind: pe.timing(kind, pe.lanes, pe.act_bits) for kind in {g[2] for g in groups}}
        of = [timing[WeightKind(kind)] for kind in kinds]
        late = np.flatnonzero(np.diff(run.taken) != [t.interval for t in of[:-1]])
        if late.size:
            return run, f"{int(np.diff(run.taken)[late[0]])} cycles from step {late[0]} to the next"
        latency = run.came - run.taken[last == 1]
        late = np.flatnonzero(latency != [timing[g[2]].latency for g in groups])
        if late.size:
            return run, f"{int(latency[late[0]])} cycles from the end of group {late[0]} to its dot products"
    return run, ""


def _arrays(machine: ColumnMachine, kind: WeightKind, n: int, seed: int, report: Report) -> list[Check]:
    groups = random_groups(machine.pe, [kind], n, np.random.default_rng(seed))
    fault = ""
    for stall in STALLS:
        try:
            run, fault = run_groups(machine, groups, stall, seed)
        except ColumnFault as broken:
            fault = str(broken)
            break
        if stall == "none":
            report.measured = _measured(machine.pe, groups, run)
        if fault:
            fault = f"stalls {stall}: {fault}"
            break
    return [Check("random", f"{n} groups, stalls {', '.join(STALLS)}", n * len(STALLS), fault)]


def _measured(pe: PeColumn, groups: list[tuple], run: Run) -> dict[str, int]:
    """Cycles between steps, from a group's end to its dot products, and of a longest group."""
    ends = np.cumsum([c.size // pe.lanes for _, c, *_ in groups]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    longest = next(i for i, (_, c, *_) in enumerate(groups[:-1]) if c.size == pe.group_max)
    return {"interval": int(run.taken[1] - run.taken[0]), "latency": int(run.came[0] - run.taken[ends[0]]),
            "group": int(run.taken[starts[longest + 1]] - run.taken[starts[longest]])}


def _mixed(machine: ColumnMachine, kinds: list[WeightKind], n: int, seed: int) -> Check:
    """All kinds in turn, which one column has to keep apart."""
    order = list(np.random.default_rng(seed).permutation(len(kinds)))
    groups = random_groups(machine.pe, [kinds[i] for i in order], n, np.random.default_rng(seed + 1))
    for stall in STALLS:
        try:
            _, fault = run_groups(machine, groups, stall, seed)
        except ColumnFault as broken:
            fault = str(broken)
        if fault:
            return Check("random", "all kinds in turn", n * len(STALLS), f"stalls {stall}: {fault}")
    return Check("random", "all kinds in turn", n * len(STALLS))


# --- Formal.


def _formal(name: str, kind: WeightKind) -> Check:
    what = "2 groups of any code and 4-bit activation, right and in time"
    with tempfile.TemporaryDirectory() as folder:
        try:
            pe_proof.prove(name, kind, 1, 4, Path(folder))
        except ToolFailed as failed:
            return Check("formal", what, 1, str(failed)[-300:])
    return Check("formal", what, 1)
