"""Random legal programs: every unit, every field, loops, registers from DRAM, with the semaphores that they need.

A program is a list of blocks, plain data that can be written to JSON, so that a failing program is made smaller by
leaving blocks out. What they compute means nothing; that every address lies in DRAM, every
matmul finds its weights and every header fits its memory, they guarantee.
"""

import random
from typing import Any

import numpy as np

from wordline.compiler.asm import to_array
from wordline.compiler.builder import Builder, Operand, reg
from wordline.compiler.program import Program
from wordline.compiler.weights import MemoryMap
from wordline.pe.datatypes import WEIGHT_TYPES, AuxKind, WeightType
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    INSTRUCTION_BYTES,
    CodeOrder,
    Destination,
    Factor,
    Function,
    Join,
    LoadFormat,
    Operation,
    Reduction,
    SourceA,
    SourceB,
    StoreMode,
)
from wordline.rtl.layout import TileLayout

Block = list[Any]  # kind, fields or blocks; a list, as JSON has it

DATA, SCRATCH, TOP = 1 << 17, 1 << 19, 1 << 21  # read from DATA on, written from SCRATCH on
#: Registers: loop counters and their limits by depth; a base address; small numbers out of DRAM.
COUNTER, LIMIT, BASE, SMALL = (1, 2), (3, 4), 5, (6, 7, 8)
BASE_VALUE = 4096


def random_blocks(rng: random.Random, config: Config, size: int = 12, depth: int = 0) -> list[Block]:
    """`size` blocks; loops of their own inside count as one."""
    makers = [_load, _tile, _tile, _vector, _vector, _vector, _store, _small, _sync]
    blocks = []
    for _ in range(size):
        if depth < 2 and rng.random() < 0.12:
            blocks.append(["loop", rng.randint(1, 3), random_blocks(rng, config, rng.randint(1, 5), depth + 1)])
        else:
            blocks.append(rng.choice(makers)(rng, config))
    return blocks


def _sync(rng: random.Random, config: Config) -> Block:
    return ["sync"]


def _small(rng: random.Random, config: Config) -> Block:
    return ["small", rng.choice(SMALL), DATA + 4 * rng.randrange(4096)]


def _load(rng: random.Random, config: Config) -> Block:
    element = rng.choice([LoadFormat.F32, LoadFormat.BF16, LoadFormat.INT8])
    beat = config.beat_bytes
    address = DATA + beat * rng.randrange((SCRATCH - DATA) // beat - 4096)
    return ["load", {"address": address, "dst": rng.randrange(64), "count": rng.choice([0, 1, rng.randrange(300)]),
                     "element": int(element)}]


def _tile(rng: random.Random, config: Config) -> Block:
    """A matmul and the streams that bring its weights."""
    a, memory = config.array, config.memory
    dtype = WEIGHT_TYPES[rng.choice(a.weights)]
    longest = min(memory.act_elements, a.group_max) // a.lanes
    while True:
        grouped = rng.random() < 0.7
        group_steps = rng.choice([g for g in (1, 2, 4, 8, 16) if a.group_min <= g * a.lanes <= a.group_max] or [0])
        steps, sparse = rng.randint(1, min(longest, 24)), False
        if a.sparse and grouped and group_steps and rng.random() < 0.6:
            steps, sparse = max(steps // group_steps, 1) * group_steps, True
        kept, windows = 0, longest // a.window if a.window else 0
        if windows and not sparse and rng.random() < 0.6:
            kept = rng.randint(1, a.window)
            group_steps = kept * rng.choice([n for n in (1, 2, 4) if a.group_min <= n * a.window * a.lanes
                                             <= windows * a.window * a.lanes] or [0])
            steps = kept * rng.randint(1, min(windows, max(1, 24 // kept)))
        layout = TileLayout(
            cols=a.cols, lanes=a.lanes, bus_bits=config.bus.data_bits, planes=dtype.bits,
            steps=steps, group_steps=group_steps if grouped else 0,
            aux=AuxKind(dtype.aux) if rng.random() < 0.8 else AuxKind.NONE,
            channel_scales=rng.random() < 0.6, group_scales=rng.random() < 0.7, float_scales=dtype.float_scales,
            sparse=sparse, window=a.window, kept=kept,
            order=_order(rng, dtype))
        if (max(layout.scale_bytes, layout.aux_bytes) <= memory.meta_beats * config.beat_bytes
                and layout.index_bytes <= config.index_beats * config.beat_bytes):
            break
    tiles: Any = rng.choice([0, 1, 1, 2, 3, 5, "small"])
    register = rng.choice(SMALL) if tiles == "small" else 0
    gap = rng.choice([0, 0, 0, 1, 3])
    beats, beat = layout.tile_beats, config.beat_bytes
    pieces = [tiles]
    if register == 0 and tiles > 1 and rng.random() < 0.5:  # in two streams
        first = rng.randint(1, tiles - 1)
        pieces = [first, tiles - first]
    streams = [{"address": DATA + beat * rng.randrange(2048), "runs": 0 if register else n, "beats": beats,
                "stride": beats + gap} for n in pieces]
    return ["tile", {"register": register, "streams": streams, "matmul": {
        "rows": rng.randint(1, a.rows), "act": rng.randrange(8) * (a.window if layout.kept else 1),
        "tiles": 0 if register else tiles, "steps": layout.steps, "out": rng.randrange(32),
        "kind": int(dtype.kind), "planes": layout.planes, "group_steps": layout.group_steps,
        "groups": layout.groups, "aux": int(layout.aux),
        "channel_scales": int(layout.channel_scales), "group_scales": int(layout.group_scales),
        "float_scales": int(layout.float_scales), "sparse": int(layout.sparse), "kept": layout.kept,
        "order": int(layout.order), "slot": rng.randrange(8), "out_stride": rng.randrange(64),
        "act_tiles": rng.choice([0, 0, 1, 2])}}]


def _order(rng: random.Random, dtype: WeightType) -> CodeOrder:
    if dtype.trits:
        return CodeOrder.TRITS
    whole = [CodeOrder.COLUMNS, CodeOrder.LANES] if dtype.bits in (2, 4, 8) else []
    return rng.choice([CodeOrder.PLANES, *whole])


def _vector(rng: random.Random, config: Config) -> Block:
    return ["vector", {
        "a": rng.randrange(16), "b": rng.randrange(48), "dst": rng.randrange(16),
        "len": rng.choice([0, 1, 1, rng.randrange(40), rng.randrange(400)]),
        "pad": rng.choice([0, 0, rng.randrange(99)]) + (rng.choice([0, 0, 0, 1, 5]) << 16),
        "a_source": int(rng.choice(list(SourceA))), "b_source": int(rng.choice(list(SourceB))),
        "multiply": int(rng.choice(list(Factor))), "multiply_scalar": rng.randrange(16),
        "addend": int(rng.choice(list(Factor))), "addend_scalar": rng.randrange(16),
        "join": int(rng.choice(list(Join))), "function": int(rng.choice(list(Function))), "bits": rng.randrange(4),
        "destination": int(rng.choice(list(Destination))), "reduction": int(rng.choice(list(Reduction))),
        "scalar": rng.randrange(15), "keep": rng.randrange(2), "outer": rng.choice([0, 0, 0, 1, 4]),
        "a_stride": rng.randrange(20), "b_stride": rng.randrange(20), "dst_stride": rng.randrange(20),
        "immediate": rng.getrandbits(32)}]


def _store(rng: random.Random, config: Config) -> Block:
    a = config.array
    address = SCRATCH + 4 * rng.randrange(1 << 15)
    if rng.random() < 0.5:
        return ["store", {"address": address, "src": rng.randrange(16), "count": rng.randrange(40)}]
    piece = rng.choice([a.lanes, a.cols])
    return ["store", {"address": SCRATCH + piece * rng.randrange(1 << 12), "src": rng.randrange(16),
                      "count": rng.randint(0, 5), "mode": int(StoreMode.PACKED), "bits": rng.choice([2, 4, 8]),
                      "piece": piece, "run_stride": piece * rng.randint(1, 60)}]


def _emit(b: Builder, blocks: list[Block], depth: int, names: list[int]) -> None:
    for block in blocks:
        kind, args = block[0], block[1:]
        if kind == "sync":
            b.barrier()
        elif kind == "small":  # 0 to 3, whatever the word
            b.load_register(args[0], reg(BASE, args[1] - BASE_VALUE))
            b.control(Operation.ANDI, rd=args[0], ra=args[0], value=3)
        elif kind == "loop":
            names[0] += 1
            b.set(LIMIT[depth], args[0])
            with b.loop(f"loop{names[0]}", COUNTER[depth], LIMIT[depth]):
                _emit(b, args[1], depth + 1, names)
        elif kind == "tile":
            register = args[0]["register"]
            tiles: Operand = reg(register) if register else args[0]["matmul"]["tiles"]
            for stream in args[0]["streams"]:
                b.stream(stream["address"], reg(register) if register else stream["runs"], stream["beats"],
                         stream["stride"])
            b.matmul(**args[0]["matmul"] | {"tiles": tiles})
        elif kind == "load":
            f = args[0]
            b.load(f["address"], f["dst"], f["count"], LoadFormat(f["element"]))
        elif kind == "vector":
            b.vector(**args[0])
        else:
            f = dict(args[0])
            b.store(f.pop("address"), f.pop("src"), f.pop("count"), "scratch", **f)


def build_program(config: Config, blocks: list[Block], seed: int = 0) -> Program:
    """The program of `blocks`, and random bytes for it to read.

    Raises
    ------
    ValueError
        It is longer than the program memory.
    """
    b = Builder()
    b.set(BASE, BASE_VALUE)
    _emit(b, blocks, 0, [0])
    b.barrier()
    b.control(Operation.END)
    words = b.words()
    if len(words) > config.memory.program:
        raise ValueError(f"{len(words)} instructions do not fit memory.program = {config.memory.program}")
    memory = MemoryMap()
    memory.take("program", config.memory.program * INSTRUCTION_BYTES, "instruction")
    data = np.random.default_rng(seed).integers(0, 256, SCRATCH - DATA, dtype=np.uint8)
    return Program(hardware=config.hardware_hash(), instructions=to_array(words), segments={DATA: data},
                   symbols=memory.symbols, info={"context": 1})
