"""Is the cycle model the RTL? Random programs on random hardware, every start and end compared; failures made small.

A case is plain data: hardware by name, blocks of a random program (`random_programs`), memory timing, stalls. A failing
case is made small, saved as JSON, and can be run again.
"""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wordline.rtl.config import Config, load_config
from wordline.rtl.isa import Unit
from wordline.sim import cycles
from wordline.sim.dram_devices import DEVICES, FIELDS
from wordline.sim.functional import FunctionalMachine
from wordline.sim.random_programs import TOP, Block, build_program, random_blocks
from wordline.sim.rtl import RtlMachine

#: Hardware that the cases run on: families, bus wider and narrower than a plane, dequantiser rates, drains.
HARDWARE: dict[str, tuple[str, list[str]]] = {
    "mac-8x8-bus64": ("ulx3s", ["array.act_bits=16"]),
    "serial-2x16x8-bus128": ("bitmod", ["array.rows=2", "array.cols=16", "array.lanes=8"]),
    "mac-3x8x8-bus256": ("ulx3s", ["array.rows=3", "bus.data_bits=256", "array.drain_lanes=2", "memory.stream_beats=64",
                                   'array.weights=["int8", "int4_asym", "bitmod_fp4"]', "array.group_min=8",
                                   "vector.lanes=2"]),
    "serial-8x16-bus32": ("ulx3s", ['array.family="bit_serial"', "array.cols=8", "array.lanes=16", "bus.data_bits=32",
                                    'array.weights=["int8", "int3", "bitmod_fp3"]', "array.group_min=16",
                                    "vector.lanes=8", "array.drain_lanes=8", "memory.stream_beats=128"]),
}


@dataclass(frozen=True)
class Case:
    """One comparison. `blocks` are those of `random_programs`."""

    hardware: str
    blocks: list[Block]
    seed: int
    stalls: float = 0.0
    dram: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        base, overrides = HARDWARE[self.hardware]
        config = load_config(base, overrides)
        return replace(config, name=self.hardware, dram=replace(config.dram, size=TOP, **self.dram))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Case":
        return cls(**json.loads(path.read_text()))


def random_case(hardware: str, seed: int) -> Case:
    """The case number `seed` of a hardware; always the same."""
    rng = random.Random(f"{hardware} {seed}")
    case = Case(hardware, [], seed, stalls=rng.choice([0.0, 0.0, 0.1, 0.5]), dram=random_dram(rng))
    return replace(case, blocks=random_blocks(rng, case.config, rng.randint(4, 16)))


def random_dram(rng: random.Random) -> dict[str, Any]:
    """A memory: of fixed latency, or a DRAM of any device with random channels and mapping."""
    fields = list(FIELDS)
    rng.shuffle(fields)
    memory: dict[str, Any] = {"latency": rng.choice([1, 2, 5, 20, 97])}
    if rng.random() < 0.7:
        memory |= {"kind": rng.choice(sorted(DEVICES)), "channels": rng.choice([0, 1, 2, 8]),
                   "mapping": rng.choice(["", ":".join(fields)])}
    return memory


class Machines:
    """The Verilated machines of the cases so far."""

    def __init__(self, say: Callable[[str], None] = lambda message: None):
        self._machines: dict[str, RtlMachine] = {}
        self.say = say

    def __getitem__(self, config: Config) -> RtlMachine:
        key = config.hardware_hash()
        if key not in self._machines:
            self._machines[key] = RtlMachine(config, say=self.say)
        machine = self._machines[key]
        machine.set_dram(config)
        return machine


def difference(case: Case, machines: Machines) -> str:
    """What differs between the cycle model and the RTL, the first in time; empty if nothing does."""
    config = case.config
    program = build_program(config, case.blocks, case.seed)
    machine = machines[config]
    machine.memory[:] = 0
    program.place(machine.memory)
    ours = cycles.run(program, config, memory=machine.memory, stalls=case.stalls, seed=case.seed, record=True,
                      max_cycles=100_000_000)
    theirs = machine.run(program, stalls=case.stalls, seed=case.seed, record=True, max_cycles=2 * ours.cycles + 10_000)
    return compare(ours, theirs)


def compare(ours: Any, theirs: Any) -> str:
    """The first difference between a `CyclesResult` and a `RunResult`, in words; empty if they are equal."""
    a, b = (np.sort(r.events, order=["unit", "index"]) for r in (ours, theirs))
    if len(a) == len(b):
        wrong = np.flatnonzero((a["start"] != b["start"]) | (a["end"] != b["end"]))
        if wrong.size:
            i = wrong[np.argmin(np.minimum(b["start"][wrong], a["start"][wrong]))]
            return (f"{wrong.size} of {len(a)} instructions; first {Unit(int(a['unit'][i])).name} {a['index'][i]}: "
                    f"model {a['start'][i]}..{a['end'][i]}, RTL {b['start'][i]}..{b['end'][i]}")
    for name in ("ended", "busy", "dram", "cycles"):
        if getattr(ours, name) != getattr(theirs, name):
            return f"{name}: model {getattr(ours, name)}, RTL {getattr(theirs, name)}"
    for unit, causes in ours.causes.items():
        if sum(causes.values()) != ours.cycles:
            return f"the causes of {unit} add up to {sum(causes.values())} of {ours.cycles} cycles"
    return ""


def shrink(case: Case, failing: Callable[[Case], bool]) -> Case:
    """The smallest case found that still fails, by leaving out blocks, unrolling loops and calming the memory."""
    def smaller(blocks: list[Block]) -> list[list[Block]]:
        result = [blocks[: len(blocks) // 2], blocks[len(blocks) // 2 :]] if len(blocks) > 2 else []
        result += [blocks[:i] + blocks[i + 1 :] for i in range(len(blocks))]
        for i, block in enumerate(blocks):
            if block[0] == "loop":
                result.append(blocks[:i] + block[2] + blocks[i + 1 :])
                if block[1] > 1:
                    result.append([*blocks[:i], ["loop", 1, block[2]], *blocks[i + 1 :]])
                result += [[*blocks[:i], ["loop", block[1], inner], *blocks[i + 1 :]] for inner in smaller(block[2])]
        return result

    progress = True
    while progress:
        progress = False
        candidates = [replace(case, stalls=0.0)] if case.stalls else []
        candidates += [replace(case, blocks=blocks) for blocks in smaller(case.blocks)]
        for candidate in candidates:
            if failing(candidate):
                case, progress = candidate, True
                break
    return case


def functional_memory(program: Any, config: Config, arguments: tuple[int, ...]) -> np.ndarray:
    """DRAM after a functional run: with the tokens that a compiled program generates and then reads."""
    machine = FunctionalMachine(config)
    machine.run(program, arguments)
    return machine.memory
