"""Is the cycle model the RTL? Random programs on random hardware, every start and end compared; failures made small.

A case is plain data: hardware, blocks of a random program (`random_programs`) or the shape of a random transformer,
memory timing, stalls. A failing case is made small, saved as JSON, and can be run again.
"""

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from wordline.compiler.model import Model, ModelConfig, expected_shapes
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.pe.family import FAMILIES, family, served
from wordline.rtl.config import Config, ConfigError, load_config
from wordline.rtl.isa import Unit
from wordline.sim import cycles
from wordline.sim.dram_devices import DEVICES, FIELDS
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator
from wordline.sim.random_programs import TOP, Block, build_program, random_blocks
from wordline.sim.rtl import RtlMachine

#: Hardware that the cases run on: families, bus wider and narrower than a plane, dequantiser rates, drains, AXI ports.
HARDWARE: dict[str, tuple[str, list[str]]] = {
    "mac-8x8-bus64": ("ulx3s", ["array.act_bits=16"]),
    "serial-2x16x8-bus128": ("bitmod", ["array.rows=2", "array.cols=16", "array.lanes=8", "array.sparse=true",
                                        "array.window=4"]),
    "mac-3x8x8-bus4x64": ("ulx3s", ["array.rows=3", "bus.data_bits=256", "bus.ports=4", "array.drain_lanes=2",
                                    "memory.stream_beats=64", "array.group_min=8", "vector.lanes=2",
                                    "array.sparse=true",
                                    'array.weights=["int8", "int7", "int4_asym", "ternary", "mxfp4"]']),
    "serial-8x16-bus32": ("ulx3s", ['array.family="bit_serial"', "array.cols=8", "array.lanes=16", "bus.data_bits=32",
                                    'array.weights=["int8", "int5", "int1", "ternary", "bitmod_fp3", "pow2x3"]',
                                    "array.group_min=16", "vector.lanes=8", "array.drain_lanes=8",
                                    "memory.stream_beats=128", "array.window=16"]),
    "lut-2x8x8-bus64": ("ulx3s", ['array.family="lut"', "array.rows=2", "array.group_min=8", "vector.lanes=2",
                                  "memory.vector_floats=2048", "memory.matmul_floats=2048", "memory.program=1024",
                                  'array.weights=["int8", "int5", "int4", "int4_asym", "int1", "ternary"]']),
    "packed-8x16-bus64": ("ulx3s", ['array.family="mac_packed"', "array.lanes=16", "array.group_min=16",
                                    "vector.lanes=2", "array.window=8",
                                    'array.weights=["int8", "int4", "int4_asym", "bitmod_fp4", "bitmod_fp3"]']),
    "shift-2x8x8-bus32": ("ulx3s", ['array.family="shift_add"', "array.rows=2", "bus.data_bits=32", "vector.lanes=2",
                                    "array.window=2",
                                    "memory.vector_floats=2048", "memory.matmul_floats=2048", "memory.program=1024",
                                    'array.weights=["int8", "int6", "int4", "int4_asym", "bitmod_fp4", "ternary"]']),
    "ternary-8x8-bus128": ("ulx3s", ['array.family="ternary"', "bus.data_bits=128", "array.act_bits=16",
                                     "vector.lanes=2",
                                     'array.weights=["int8", "int4", "int4_asym", "ternary"]']),
    "plane-8x8-bus64": ("ulx3s", ['array.family="bit_plane:pairs=4"', "array.group_min=8", "vector.lanes=2",
                                  'array.weights=["int8", "int4", "int2", "int1", "ternary"]']),
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes
    ----------
    hardware : str
        A name in `HARDWARE`, or ``random-N`` for `random_hardware` number N.
    blocks : list
        A program of `random_programs`; empty if `model` is given.
    seed : int
        Of data, weights and stalls.
    stalls : float
        Probability that a channel of the bus hesitates.
    dram : dict
        Fields of `DramConfig`.
    model : dict
        Shape of a random transformer (fields of `ModelConfig`), ``prompt``, ``tokens`` and ``kv``; empty for a program.
    """

    hardware: str
    blocks: list[Block]
    seed: int
    stalls: float = 0.0
    dram: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        config = hardware_config(self.hardware)
        return replace(config, name=self.hardware, dram=replace(config.dram, size=TOP, **self.dram))

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Case":
        return cls(**json.loads(path.read_text()))


def hardware_config(name: str) -> Config:
    """The configuration of a hardware's name.

    Raises
    ------
    ValueError
        There is no such hardware.
    """
    if name.startswith("random-") and name[7:].isdigit():
        return random_hardware(int(name[7:]))
    if name not in HARDWARE:
        raise ValueError(f"no hardware {name!r}: one of {', '.join(HARDWARE)}, or random-N")
    return load_config(*HARDWARE[name])


def random_hardware(number: int) -> Config:
    """A random configuration, always the same for a number; small, since each is compiled with Verilator."""
    rng = random.Random(f"hardware {number}")
    name = rng.choice([*FAMILIES, "lut:k=3", "bit_plane:pairs=8"])
    types = served(family(name))
    while True:
        cols, lanes, vector = rng.choice([4, 8, 16]), rng.choice([4, 8, 16]), rng.choice([2, 4, 8])
        overrides = {
            "array.family": name, "array.rows": rng.randint(1, 3), "array.cols": cols,
            "array.lanes": lanes, "array.act_bits": rng.choice([8, 16]),
            "array.weights": ["int8", *rng.sample(types, 3)], "array.group_min": lanes * rng.choice([1, 2, 4]),
            "array.sparse": rng.random() < 0.5, "array.drain_lanes": rng.choice([1, 2, 4, 8]), "vector.lanes": vector,
            "bus.data_bits": rng.choice([32, 64, 128, 256, 512]), "bus.ports": rng.choice([1, 1, 2, 4]),
            "memory.stream_beats": rng.choice([64, 128, 512]),
            "memory.vector_floats": 4096, "memory.matmul_floats": 4096, "memory.load_floats": 2048,
            "array.window": rng.choice([0, 0, 2, 4, 8, 16]),
        }
        try:
            return load_config("ulx3s", [f"{key}={json.dumps(value)}" for key, value in overrides.items()])
        except ConfigError:
            continue


def random_case(hardware: str, seed: int) -> Case:
    """The case number `seed` of a hardware; always the same. One in ten is a transformer."""
    rng = random.Random(f"{hardware} {seed}")
    stalls, dram = rng.choice([0.0, 0.0, 0.1, 0.5]), random_dram(rng, hardware_config(hardware).bus.ports)
    case = Case(hardware, [], seed, stalls=stalls, dram=dram)
    if seed % 10 == 9:
        while True:
            case = replace(case, model=random_transformer(rng, case.config))
            with contextlib.suppress(CompileError):  # it may not fit the program memory: another one
                _compile(case)
                return case
    return replace(case, blocks=random_blocks(rng, case.config, rng.randint(4, 16)))


def random_transformer(rng: random.Random, config: Config) -> dict[str, Any]:
    """Shape, prompt, tokens and cache of a small transformer that suits the hardware. With a cache below 8 bits, a
    group of keys has as many tokens as the array has columns, and the prompt often several groups."""
    kv_heads = rng.randint(1, 2)
    step = max(config.array.lanes, config.array.cols, 2 * config.vector.lanes)
    kv = rng.choice(["int8", *(name for name in ("int4", "int2") if name in config.array.weights)])
    longest = 6 if kv == "int8" else 3 * config.array.cols
    shape = {"kv": kv, "layers": rng.randint(1, 2), "width": 16 * rng.randint(1, 4),
            "heads": kv_heads * rng.randint(1, 2), "kv_heads": kv_heads, "head_dim": step * rng.randint(1, 2),
            "ffn": 16 * rng.randint(1, 6), "vocab": rng.randint(9, 70), "tied": rng.random() < 0.5,
            "prompt": rng.randint(1, longest), "tokens": rng.randint(1, 3)}
    if rng.random() < 0.25:  # a recurrence instead of attention
        shape |= {"kv": "int8", "heads": 1, "kv_heads": 1, "head_dim": 16 * rng.randint(1, 4), "tied": False,
                  "mixer": "mlgru", "positions": "none", "linear_norms": True, "sub_norms": True,
                  "lower_bounds": rng.random() < 0.5}
    return shape


def transformer(case: Case) -> tuple[Model, list[int], int]:
    """The model of a case with random weights, a random prompt, and the number of tokens to generate."""
    shape = {key: value for key, value in case.model.items() if key != "kv"}
    prompt, tokens = shape.pop("prompt"), shape.pop("tokens")
    c = ModelConfig(name="random", context=prompt + tokens, norm_eps=1e-5, rope_theta=1e4, **shape)
    rng = np.random.default_rng(case.seed)
    tensors = {name: rng.standard_normal(size).astype(np.float32) for name, size in expected_shapes(c).items()}
    return Model(c, tensors, None, Path()), [int(t) for t in rng.integers(0, c.vocab, prompt)], tokens


def random_dram(rng: random.Random, ports: int = 1) -> dict[str, Any]:
    """A memory: of fixed latency, or a DRAM of any device with random channels and mapping."""
    fields = list(FIELDS)
    rng.shuffle(fields)
    memory: dict[str, Any] = {"latency": rng.choice([1, 2, 5, 20, 97])}
    if rng.random() < 0.7:
        channels = rng.choice([0, 1, 2, 8]) if ports == 1 else ports * rng.choice([1, 2])
        memory |= {"kind": rng.choice(sorted(DEVICES)), "channels": channels,
                   "mapping": rng.choice(["", ":".join(fields)])}
    return memory


def _compile(case: Case) -> Generator:
    model, prompt, tokens = transformer(case)
    types = replace(case.config.types, weights="int8", group_size=0, acts=8, kv=case.model.get("kv", "int8"),
                    kv_group=case.config.array.cols)
    return Generator(model, compile_model(model, replace(case.config, types=types)), prompt, tokens)


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
    machine = machines[config]
    machine.memory[:] = 0
    arguments: tuple[int, ...]
    if case.model:
        generator = _compile(case)
        program, arguments = generator.program, generator.arguments
        memory = functional_memory(program, config, arguments)
    else:
        arguments = ()
        program = build_program(config, case.blocks, case.seed)
        program.place(machine.memory)
        memory = machine.memory
    options: dict[str, Any] = {"stalls": case.stalls, "seed": case.seed, "record": True}
    ours = cycles.run(program, config, arguments, memory=memory, max_cycles=100_000_000, **options)
    theirs = machine.run(program, arguments, max_cycles=2 * ours.cycles + 10_000, **options)
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
        candidates += [replace(case, model=case.model | {key: value - 1}) for key, value in case.model.items()
                       if key in ("layers", "prompt", "tokens") and value > 1]
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
