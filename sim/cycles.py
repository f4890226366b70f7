"""When every instruction starts and ends, to the cycle, without the RTL.

The timing itself is in ``cycles.cpp`` and one header a unit, which repeat the states of every unit without its data,
share the bus with the Verilated run (``bus.hpp``), and are compiled once. This file tells them the configuration,
the declared timings of the PEs, and what is known from ``rtl/``: sizes, and where the fields of an instruction are.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

from wordline.compiler.program import Program
from wordline.pe.datatypes import AUX_BITS, AuxKind
from wordline.rtl.column import ColumnPlan
from wordline.rtl.config import Config
from wordline.rtl.dispatch import IN_FLIGHT, QUEUE_DEPTH
from wordline.rtl.drain import LATENCY as DRAIN_LATENCY
from wordline.rtl.float_ref import SUM_WIDTH
from wordline.rtl.gearbox import MAX_PLANES, whole_beats
from wordline.rtl.isa import (
    INSTRUCTION_BYTES,
    INSTRUCTIONS,
    REGISTERS,
    SEMAPHORE_BITS,
    CodeOrder,
    Destination,
    Factor,
    Function,
    Instruction,
    LoadFormat,
    Long,
    Operation,
    Reduction,
    Short,
    StoreMode,
    Unit,
)
from wordline.rtl.layout import pick_bits
from wordline.rtl.load_unit import FIFO_BEATS
from wordline.rtl.matmul_unit import channel_beats
from wordline.rtl.read_port import MAX_BURST
from wordline.rtl.sequencer import QUIET_CYCLES
from wordline.rtl.store_unit import OUTSTANDING
from wordline.rtl.stream_unit import WINDOW
from wordline.rtl.trits import trit_units
from wordline.rtl.vector_lane import VectorLane
from wordline.rtl.vector_reduce import ADD, sum_interval
from wordline.rtl.vector_unit import PREPARE
from wordline.sim import dram, toolchain
from wordline.sim.result import EVENT, RunResult

#: What one instruction of a program did in all its executions: beats on the bus and through FIFOs; words of a vector
#: instruction, of bank L written by a load, of bank S read by a store; word additions that fold a sum; steps of the
#: array, rows in them; tiles drained, rows in them; DRAM commands for it.
ACTIVITY = np.dtype([(name, "<i8") for name in (
    "executions", "beats", "words", "folds", "steps", "row_steps", "tiles", "row_tiles", "activates", "reads",
    "writes")])


class CyclesError(RuntimeError):
    """A program that does not come to its end."""


class Cause(IntEnum):
    """Why a unit spends a cycle as it does."""

    NOTHING = 0  #: no instruction queued
    SEMAPHORE = 1  #: an instruction waits for other units
    WORK = 2  #: moves data or computes
    SETUP = 3  #: an instruction begins, ends, or changes phase
    DATA = 4  #: waits for DRAM
    ROOM = 5  #: waits for room in a buffer or a queue
    REFRESH = 6  #: waits for DRAM, which refreshes
    DRAIN_WAIT = 7  #: waits for the pipeline's end


@dataclass(frozen=True)
class Boot:
    """What had been when the first instruction was fetched: as in `CyclesResult`."""

    cycles: int
    dram: dram.DramCounters
    causes: dict[str, dict[str, int]]


@dataclass(frozen=True)
class CyclesResult(RunResult):
    """What a run takes, and why.

    Attributes
    ----------
    causes : dict[str, dict[str, int]]
        Per unit, cycles by `Cause`; they add up to `cycles`.
    boot : Boot
        How much of these the loading of the program took.
    activity : structured array `ACTIVITY`
        One row an instruction of the program, and behind them one for the load that boots it.
    spans : int64[...]
        Of the same instructions, cycles from start to end, all executions together.
    """

    causes: dict[str, dict[str, int]]
    boot: Boot
    activity: np.ndarray = field(repr=False)
    spans: np.ndarray = field(repr=False)


def _field_lines(struct: type[data.Struct]) -> list[str]:
    """A C++ constant for the place of every field; of operands, of their immediate."""
    lines = []
    for key, part in data.Layout.cast(struct):
        width = {Long: 40, Short: 16}.get(part.shape, Shape.cast(part.shape).width)
        name = {"register": "reg"}.get(str(key), str(key))
        lines.append(f"constexpr Field {name}{{{part.offset}, {width}}};")
    return lines


def isa_header() -> str:
    """``isa.hpp``: places of fields, numbers of units, operations, formats and causes, and sizes, from `rtl`."""
    sizes = {"INSTRUCTION_BYTES": INSTRUCTION_BYTES, "UNITS": len(Unit), "CAUSES": len(Cause), "REGISTERS": REGISTERS,
             "SEMAPHORE_MAX": (1 << SEMAPHORE_BITS) - 1, "QUEUE_DEPTH": QUEUE_DEPTH, "IN_FLIGHT": IN_FLIGHT,
             "QUIET_CYCLES": QUIET_CYCLES, "FIFO_BEATS": FIFO_BEATS, "MAX_BURST": MAX_BURST,
             "MAX_PLANES": MAX_PLANES, "OUTSTANDING": OUTSTANDING}
    lines = ["#pragma once", "namespace wordline {", "struct Field { int offset, width; };",
             "constexpr int " + ", ".join(f"{name} = {value}" for name, value in sizes.items()) + ";",
             "enum Cause { " + ", ".join(f"{c.name} = {int(c)}" for c in Cause) + " };"]
    enums: list[tuple[type[IntEnum], dict[str, str]]] = [
        (Unit, {}), (LoadFormat, {"REGISTER": "REGISTER_FORMAT"}), (Operation, {}),
        (Reduction, {"NONE": "NO_REDUCTION", "MAX": "MAX_OF"}),
    ]
    for kind, renamed in enums:
        items = ", ".join(f"{renamed.get(e.name, e.name)} = {int(e)}" for e in kind)
        lines.append(f"enum {kind.__name__}Number {{ {items} }};")
    lines.append(f"constexpr int AUX_BITS[{len(AuxKind)}] = {{ {', '.join(str(AUX_BITS[a]) for a in AuxKind)} }};")
    lines.append(f"constexpr int TRITS = {int(CodeOrder.TRITS)}, NO_FACTOR = {int(Factor.NONE)};")
    lines.append(f"constexpr int NO_FUNCTION = {int(Function.NONE)}, INT = {int(Function.INT)};")
    lines.append(f"constexpr int ACT_BUFFER = {int(Destination.ACT)}, PACKED_MODE = {int(StoreMode.PACKED)};")
    for unit, struct in INSTRUCTIONS.items():
        lines += [f"namespace {unit.name.lower()} {{", *_field_lines(struct), "}"]
    parts = dict(data.Layout.cast(Instruction))
    long, short = parts["long"].offset, parts["short"].offset
    size = Shape.cast(Short).width
    at = [short + i * size for i in range(4)]
    lines += ["namespace any {", *_field_lines(Instruction)[:3],
              f"constexpr Field long_imm{{{long}, 40}}, long_reg{{{long + 40}, 4}};",
              "constexpr Field short_imm[4] = {" + ", ".join(f"{{{a}, 16}}" for a in at) + "};",
              "constexpr Field short_reg[4] = {" + ", ".join(f"{{{a + 16}, 4}}" for a in at) + "};", "}", "}"]
    return "\n".join(lines) + "\n"


_PARAMS = ("beat_bytes", "stream_beats", "cols", "lanes", "vector_lanes", "chunks", "channel_beats", "spacing",
           "stream_window", "pick_bits", "dequant_latency", "drain_latency", "vector_prepare", "multiply_latency",
           "add_latency", "plain_latency", "int_latency", "special_latency", "sum_interval", "sum_settle", "sum_words",
           "dram_latency", "trit_beat", "trit_step", "ports", "page_bytes",
           "whole_beats")


class _Params(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _PARAMS] + [
        ("interval", ctypes.c_int64 * 16), ("latency", ctypes.c_int64 * 16)]


def _params(config: Config) -> _Params:
    a, plan, lanes = config.array, ColumnPlan(config), config.vector.lanes
    trits = trit_units(config.bus.data_bits, a.cols * a.lanes)
    p = _Params(
        beat_bytes=config.beat_bytes, stream_beats=config.memory.stream_beats, cols=a.cols, lanes=a.lanes,
        vector_lanes=lanes, chunks=a.cols // a.drain_lanes,
        channel_beats=channel_beats(config), spacing=plan.spacing, stream_window=WINDOW,
        pick_bits=pick_bits(a.window) if a.window else 0,
        dequant_latency=plan.dequant_latency, drain_latency=DRAIN_LATENCY, vector_prepare=PREPARE,
        multiply_latency=VectorLane.multiply_latency, add_latency=VectorLane.add_latency,
        plain_latency=VectorLane.plain_latency, int_latency=VectorLane.int_latency,
        special_latency=VectorLane.special_latency, sum_interval=sum_interval(lanes),
        sum_settle=ADD + 1, sum_words=SUM_WIDTH // lanes, dram_latency=config.dram.latency,
        trit_beat=trits[0], trit_step=trits[1],
        ports=config.bus.ports, page_bytes=config.bus.page_bytes,
        whole_beats=8 * config.beat_bytes <= a.cols * a.lanes or whole_beats(config))
    for kind in plan.kinds:
        timing = plan.timing(kind)
        p.interval[kind], p.latency[kind] = timing.interval, timing.latency
    return p


@cache
def _library() -> ctypes.CDLL:
    here = Path(__file__).parent
    headers = ("bus", "dram", "unit", "load_unit", "stream_unit", "matmul_unit", "vector_unit", "store_unit")
    path = toolchain.shared_library(here / "cycles.cpp", [here / f"{name}.hpp" for name in headers],
                                    {"isa.hpp": isa_header()})
    library, pointer, number = ctypes.CDLL(str(path)), ctypes.c_void_p, ctypes.c_int64
    library.cycles_new.restype = pointer
    library.cycles_new.argtypes = [pointer, pointer, pointer, number, ctypes.c_uint64, pointer, ctypes.c_uint64,
                                   pointer, ctypes.c_double, ctypes.c_uint64, ctypes.c_int]
    library.cycles_run.argtypes, library.cycles_free.argtypes = [pointer, number], [pointer]
    library.cycles_now.argtypes, library.cycles_now.restype = [pointer], number
    library.cycles_error.argtypes, library.cycles_error.restype = [pointer], ctypes.c_char_p
    library.cycles_counters.argtypes = [pointer] * 4
    library.cycles_dram_counters.argtypes = [pointer, pointer]
    library.cycles_constant.argtypes = [pointer, ctypes.c_uint64, ctypes.c_uint32]
    library.cycles_activity.argtypes = [pointer] * 3
    library.cycles_boot.argtypes, library.cycles_boot.restype = [pointer] * 3, number
    library.cycles_events.argtypes, library.cycles_events.restype = [pointer, pointer], number
    return library


def _by_cause(causes: np.ndarray) -> dict[str, dict[str, int]]:
    return {u.name: {c.name: int(causes[u, c]) for c in Cause} for u in Unit}


def run(program: Program, config: Config, arguments: tuple[int, ...] = (), *, memory: np.ndarray | None = None,
        stalls: float = 0.0, seed: int = 0, record: bool = False, max_cycles: int = 1 << 50,
        progress: Callable[[int], None] | None = None) -> CyclesResult:
    """Time a program.

    Parameters
    ----------
    arguments : up to 4 ints, presets of registers 1 to 4
    memory : uint8[], optional
        DRAM as the words that loads put into registers find it: after a functional run, say, since a token
        that the program itself writes must be there. Without it the constants of the image are there, which are
        segments of one word, and everything else is zero.
    stalls, seed : as in `sim.rtl.RtlMachine.run`
    record : keep start and end of every instruction
    progress : called with the cycles so far, every 2^24 cycles

    Raises
    ------
    ProgramError
        The program is for other hardware.
    CyclesError
        It does not end.
    """
    program.check_hardware(config.hardware_hash(), config.name)
    library, params = _library(), _params(config)
    words = np.ascontiguousarray(program.instructions)
    image = None if memory is None else np.ascontiguousarray(memory)
    registers, device = (ctypes.c_int64 * 4)(*arguments), dram.of_config(config)
    model = library.cycles_new(
        ctypes.byref(params), device and ctypes.byref(device), words.ctypes.data, len(program.instructions),
        program.symbols["program"].address,
        None if image is None else image.ctypes.data, 0 if image is None else image.size, registers, stalls, seed,
        record)
    for address, segment in program.segments.items() if image is None else ():
        if segment.nbytes == 4:
            library.cycles_constant(model, address, int(segment.view("<u4")[0]))
    try:
        if library.cycles_run(model, max_cycles):
            raise CyclesError(f"{library.cycles_error(model).decode()} (cycle {library.cycles_now(model)})")
        n = len(Unit)
        busy, ended, causes = (np.zeros(shape, np.int64) for shape in (n, n, (n, len(Cause))))
        library.cycles_counters(model, busy.ctypes.data, ended.ctypes.data, causes.ctypes.data)
        memory_counters = dram.empty_counters()
        library.cycles_dram_counters(model, memory_counters)
        events = np.zeros(library.cycles_events(model, None), EVENT)
        library.cycles_events(model, events.ctypes.data)
        activity = np.zeros(len(program.instructions) + 1, ACTIVITY)
        spans = np.zeros(len(activity), np.int64)
        library.cycles_activity(model, activity.ctypes.data, spans.ctypes.data)
        boot_causes, boot_counters = np.zeros_like(causes), dram.empty_counters()
        booted = library.cycles_boot(model, boot_causes.ctypes.data, boot_counters)
        return CyclesResult(
            library.cycles_now(model), {u.name: int(busy[u]) for u in Unit}, {u.name: int(ended[u]) for u in Unit},
            dram.counters_of(memory_counters), events, _by_cause(causes),
            Boot(booted, dram.counters_of(boot_counters), _by_cause(boot_causes)), activity, spans)
    finally:
        library.cycles_free(model)
