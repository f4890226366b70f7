"""Which events a program's instructions cause in the hardware: from counts of `sim.cycles` to names and numbers.

An `Event` has a name under which a characterised table may price it, and a recipe: what it is made of in operations
for which constants are published. The recipes follow `pe/` and `rtl/`; what they leave out is in `NOT_COUNTED`.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wordline.compiler.asm import fields, to_words
from wordline.compiler.program import Program
from wordline.pe.bit_plane import BitPlaneColumn
from wordline.pe.bit_serial import BitSerialColumn
from wordline.pe.datatypes import AUX_BITS, AuxKind, WeightKind
from wordline.pe.dequant import FLOAT_SCALE_BITS, corrected_bits
from wordline.pe.family import dot_bits, signed_bits
from wordline.pe.lut import LutColumn, additions, sizes
from wordline.pe.mac import MacColumn
from wordline.pe.mac_packed import DIGIT_BITS, PackedMacColumn, field
from wordline.pe.shift_add import ShiftAddColumn
from wordline.pe.ternary import TernaryColumn
from wordline.rtl.column import ColumnPlan
from wordline.rtl.config import Config
from wordline.rtl.float_ref import SEGMENTS
from wordline.rtl.isa import (
    ROW_SCALES,
    Aux,
    Destination,
    Factor,
    Function,
    Join,
    Operation,
    Reduction,
    SourceA,
    SourceB,
    Unit,
)
from wordline.rtl.layout import pick_bits
from wordline.rtl.load_unit import FIFO_BEATS
from wordline.rtl.matmul_unit import channel_beats, pick_beats
from wordline.rtl.sfu import C0_BITS, C1_BITS, C2_BITS

#: How many, which primitive of the energy table, its sizes.
Op = tuple[Any, ...]

NOT_COUNTED = (
    "clock tree and pipeline registers", "leakage of logic and SRAM", "wires between units",
    "AXI, DRAM controller and PHY", "queues of instructions, semaphores and state machines",
    "weight decoders and code reordering", "reads of a memory whose word nobody uses",
    "vector stages that an instruction does not use (they switch nevertheless)")


@dataclass(frozen=True)
class Event:
    """Something that happens in a unit.

    Attributes
    ----------
    unit, name : str
    recipe : tuple[Op, ...]
        (number, primitive, sizes...): ``add`` bits, ``multiply`` bits bits, ``float_add``, ``float_multiply``, ``read``
        and ``write`` of bits and width of an SRAM, ``dram`` device command.
    assumed : str
        Why the recipe is a guess; empty if it is what the RTL has.
    """

    unit: str
    name: str
    recipe: tuple[Op, ...]
    assumed: str = ""


#: (part of the model, event) -> how often.
Ledger = dict[tuple[str, Event], float]


def tree(lanes: int, bits: int) -> list[Op]:
    """Additions of an adder tree over `lanes` numbers of `bits` bits, divided by `lanes`."""
    return [(2.0**-k, "add", bits + k) for k in range(1, lanes.bit_length())]


def shared(n: int, recipe: list[Op]) -> list[Op]:
    """A recipe's part for each of `n`."""
    return [(count / n, *op) for count, *op in recipe]


class Events:
    """The events of one configuration."""

    def __init__(self, config: Config):
        self.config, self.plan = config, ColumnPlan(config)
        a, m, lanes, bus = config.array, config.memory, config.vector.lanes, config.bus.data_bits
        word = 32 * lanes
        #: Bits, and width of a read and of a write.
        self.memories: dict[str, tuple[int, int, int]] = {
            "picks": (2 * pick_beats(config) * bus, a.lanes * pick_bits(a.window), bus),
        } if a.window else {}
        self.memories |= {
            "X": (32 * m.vector_floats, word, word), "M": (32 * m.matmul_floats, word, 32 * a.drain_lanes),
            "L": (32 * m.load_floats, word, word), "S": (32 * m.store_floats, word, word),
            "ACT": (a.rows * m.act_elements * a.act_bits, a.rows * a.lanes * a.act_bits, lanes * a.act_bits),
            "ROW_SCALE": (32 * ROW_SCALES, 32, 32), "SCALAR": (16 * 32, 32, 32),
            "weight FIFO": (m.stream_beats * bus, bus, bus), "load FIFO": (FIFO_BEATS * bus, bus, bus),
            "group scales": (2 * m.meta_beats * bus, 8 * a.cols, bus),
            "group index": (2 * config.index_beats * bus, 16, bus),
            "channel scales": (2 * channel_beats(config) * bus, 32 * a.drain_lanes, bus),
            "program": (256 * m.program, 256, 256),
        }

    def read(self, unit: str, memory: str) -> Event:
        a = self.config.array
        bits, width, _ = self.memories[memory]
        if memory == "ACT" and a.window:  # a memory for each lane
            return Event(unit, "read ACT", ((a.lanes, "read", bits // a.lanes, width // a.lanes),))
        return Event(unit, f"read {memory}", ((1, "read", bits, width),))

    def write(self, unit: str, memory: str) -> Event:
        a, lanes = self.config.array, self.config.vector.lanes
        bits, _, width = self.memories[memory]
        if memory == "ACT" and a.window:
            return Event(unit, "write ACT", ((lanes, "write", bits // a.lanes, width // lanes),))
        return Event(unit, f"write {memory}", ((1, "write", bits, width),))

    def product(self, kind: WeightKind) -> Event:
        """One weight times one activation, with its share of adder tree and accumulator."""
        a, pe = self.config.array, self.plan.pe
        acc: Op = (1 / a.lanes, "add", dot_bits(a.act_bits, self.plan.kinds, a.group_max))
        cycles, cycle, assumed = self.plan.timing(kind).interval, list[Op](), ""
        if issubclass(pe, MacColumn):
            cycle = [(1, "multiply", a.act_bits, 8), *tree(a.lanes, a.act_bits + 8)]
        elif issubclass(pe, PackedMacColumn):
            s = field(a.act_bits)
            cycle = [(0.5, "multiply", s + a.act_bits + 1, s + DIGIT_BITS), *shared(2, tree(a.lanes // 2, s))]
        elif issubclass(pe, BitSerialColumn):
            cycle = [(1, "add", a.act_bits + 4), *tree(a.lanes, a.act_bits + 4)]
            assumed = "shifting and negating a term is charged as one addition"
        elif issubclass(pe, ShiftAddColumn):
            cycle = [(3, "add", a.act_bits + 4), *tree(a.lanes, a.act_bits + 5)]
            assumed = "shifting and negating a term is charged as one addition"
        elif issubclass(pe, LutColumn):
            entry = signed_bits(pe.k << (a.act_bits - 1))
            cycle = shared(pe.k, [(1, "add", entry), *tree(a.lanes // pe.k, entry)])
            assumed = "selecting and negating an entry is charged as one addition"
        elif issubclass(pe, TernaryColumn):
            cycle = [(1, "add", a.act_bits), *tree(a.lanes, a.act_bits)]
            assumed = "selecting and negating an activation is charged as one addition"
        elif issubclass(pe, BitPlaneColumn):
            pairs = min(pe.pairs, a.act_bits)
            cycle = [(pairs * n, *op) for n, *op in tree(a.lanes, 1)] + [((pairs - 1) / a.lanes, "add", acc[2])]
            assumed = "the AND of two bits is free"
        else:
            raise ValueError(f"array.family = {a.family!r}: no energy recipe yet; write it in sim/events.py")
        return Event("MATMUL", f"product {a.family} {kind.name} x {a.act_bits}",
                     tuple((cycles * n, *op) for n, *op in [*cycle, acc]), assumed)

    def front(self) -> Event | None:
        """What a family's front does with a row's activations of a step."""
        a, pe = self.config.array, self.plan.pe
        name = f"front {a.family} x {a.act_bits}"
        if issubclass(pe, LutColumn):
            entry = signed_bits(pe.k << (a.act_bits - 1))
            tables = sizes(a.lanes, pe.k)
            adders = sum(additions(size) for size in tables) + len(tables)  # entries, and their total
            return Event("MATMUL", name, ((adders, "add", entry),))
        if issubclass(pe, PackedMacColumn):
            return Event("MATMUL", name, ((a.lanes / 2, "add", field(a.act_bits) + a.act_bits + 1),))
        return None

    def dequant(self, zero: bool, floating: bool) -> Event:
        """A group's dot product times its scale, minus the zero point's part, onto the accumulator."""
        a, plan = self.config.array, self.plan
        dot = dot_bits(a.act_bits, plan.kinds, a.group_max)
        bits = corrected_bits(dot, plan.sum_bits, plan.asymmetric)
        recipe: list[Op] = [(1, "multiply", bits, 8), (1, "add", a.acc_bits)]
        if zero:
            recipe += [(1, "multiply", plan.sum_bits, 8), (1, "add", bits)]
        name = "group scale and zero" if zero else "group scale"
        if floating:
            recipe.append((1, "add", bits + FLOAT_SCALE_BITS))
            return Event("MATMUL", f"{name}, small float", tuple(recipe),
                         "shifting the product by the exponent is charged as an addition")
        return Event("MATMUL", name, tuple(recipe))

    def act_sum(self) -> Event:
        a = self.config.array
        return Event("MATMUL", "sum of a step's activations", tuple(
            [(a.lanes * n, *op) for n, *op in tree(a.lanes, a.act_bits)] + [(1, "add", self.plan.sum_bits)]))

    def drain(self, channel: bool) -> Event:
        return Event("MATMUL", "drain, both scales" if channel else "drain, row scale",
                     ((2, "add", self.config.array.acc_bits), (2 if channel else 1, "float_multiply", 32)),
                     "accumulator to float32: normalising and rounding are charged as two additions")

    # --- Per instruction: event and how often, from its fields and its row of ACTIVITY.

    def load(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        yield self.write("LOAD", "load FIFO"), n["beats"]
        yield self.read("LOAD", "load FIFO"), n["beats"]
        yield self.write("LOAD", "L"), n["words"]

    def stream(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        yield self.write("STREAM", "weight FIFO"), n["beats"]

    def matmul(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        a = self.config.array
        yield self.read("MATMUL", "weight FIFO"), n["beats"]
        yield self.read("MATMUL", "ACT"), n["steps"]
        product = self.product(WeightKind(f["kind"]))
        yield product, n["row_steps"] * a.cols * a.lanes
        # Nothing stops the rows without a token: they multiply what lies in the buffer.
        idle = Event("MATMUL", f"{product.name}, row without a token", product.recipe,
                     "stale activations are taken to switch as much as a token's")
        yield idle, (a.rows * n["steps"] - n["row_steps"]) * a.cols * a.lanes
        front = self.front()
        if front:
            yield front, n["steps"] * a.rows
        if self.plan.asymmetric:
            yield self.act_sum(), n["steps"] * a.rows
        groups = n["tiles"] * f["groups"]
        zero = f["aux"] == Aux.ZERO
        yield self.dequant(zero, bool(f["float_scales"])), groups * a.cols * a.rows
        header = 0
        if f["channel_scales"]:
            header += channel_beats(self.config)
            yield self.read("MATMUL", "channel scales"), n["row_tiles"] * (a.cols // a.drain_lanes)
            yield self.write("MATMUL", "channel scales"), n["tiles"] * channel_beats(self.config)
        sections = [8 * a.cols * f["group_scales"], a.cols * AUX_BITS[AuxKind(f["aux"])]]
        if f["sparse"]:
            yield self.read("MATMUL", "group index"), groups
            yield self.write("MATMUL", "group index"), n["tiles"] * -(-f["groups"] * 16 // self.config.bus.data_bits)
        if f["kept"]:
            bits = n["steps"] // max(n["tiles"], 1) * a.lanes * pick_bits(a.window)
            yield self.read("MATMUL", "picks"), n["steps"]
            yield self.write("MATMUL", "picks"), n["tiles"] * -(-bits // self.config.bus.data_bits)
        for bits in filter(None, sections):
            yield self.read("MATMUL", "group scales"), groups
            yield self.write("MATMUL", "group scales"), n["tiles"] * -(-f["groups"] * bits // self.config.bus.data_bits)
        yield self.drain(bool(f["channel_scales"])), n["row_tiles"] * a.cols
        yield self.read("MATMUL", "ROW_SCALE"), n["row_tiles"] * (a.cols // a.drain_lanes)
        yield self.write("MATMUL", "M"), n["row_tiles"] * (a.cols // a.drain_lanes)

    def vector(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        lanes = self.config.vector.lanes
        words, elements = n["words"], n["words"] * lanes
        compare = Event("VECTOR", "float compare", ((1, "add", 32),), "a comparison is a subtraction of the bits")
        add = Event("VECTOR", "float add", ((1, "float_add", 32),))
        if f["a_source"] in (SourceA.X, SourceA.M):
            yield self.read("VECTOR", SourceA(f["a_source"]).name), words
        if Factor.B in (f["multiply"], f["addend"]):
            yield self.read("VECTOR", SourceB(f["b_source"]).name), words
        if f["multiply"] != Factor.NONE:
            yield Event("VECTOR", "float multiply", ((1, "float_multiply", 32),)), elements
        if f["addend"] != Factor.NONE:
            yield (add if f["join"] == Join.ADD else compare), elements
        if f["function"] == Function.INT:
            yield Event("VECTOR", "float to integer", ((2, "add", 32),),
                        "shifting and rounding are charged as two additions"), elements
        elif f["function"] != Function.NONE:
            table = C0_BITS + C1_BITS + C2_BITS
            recipe = ((1, "read", 3 * SEGMENTS * table, table), (1, "multiply", 16, 13), (1, "multiply", 17, 18),
                      (2, "add", 25), (2, "add", 32))
            yield Event("VECTOR", "exp2, recip or rsqrt", recipe,
                        "shifting and rounding are charged as two additions"), elements
        if f["destination"] in (Destination.X, Destination.S, Destination.ACT):
            yield self.write("VECTOR", Destination(f["destination"]).name), words
        elif f["destination"] != Destination.NONE:
            yield self.write("VECTOR", Destination(f["destination"]).name), n["executions"]
        if f["reduction"] == Reduction.SUM:
            yield add, elements + n["folds"] * lanes + n["executions"] * (lanes - 1)
        elif f["reduction"] != Reduction.NONE:
            yield compare, elements + n["executions"] * lanes

    def store(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        yield self.read("STORE", "S"), n["words"]

    def control(self, f: dict[str, Any], n: Any) -> Iterator[tuple[Event, float]]:
        if f["operation"] == Operation.MULI:
            yield Event("CONTROL", "register multiply", ((1, "multiply", 24, 16),)), n["executions"]
        elif f["operation"] not in (Operation.SYNC, Operation.END):
            yield Event("CONTROL", "register add, shift or compare", ((1, "add", 40),),
                        "whatever the operation, charged as an addition"), n["executions"]

    def dram(self, n: Any) -> Iterator[tuple[Event, float]]:
        """Commands of an instruction of any unit."""
        device = self.config.dram.kind
        for command, count in (("ACT+PRE", "activates"), ("RD", "reads"), ("WR", "writes")):
            yield Event("DRAM", command, ((1, "dram", device, command),)), n[count]
            if command != "ACT+PRE":
                yield Event("DRAM", f"{command} I/O", ((1, "dram", device, f"{command} I/O"),)), n[count]

    def time(self, ns: float, refresh_ns: float, channels: int) -> Iterator[tuple[Event, float]]:
        """What DRAM takes in `ns` nanoseconds whatever it does: standby (counted in ns), refreshes."""
        device = self.config.dram.kind
        yield Event("DRAM", "standby", ((1, "dram", device, "standby"),),
                    "some row is taken to be open at all times"), ns * channels
        if refresh_ns:
            yield Event("DRAM", "REF", ((1, "dram", device, "REF"),)), ns / refresh_ns * channels


def part_names(program: Program) -> list[str]:
    """Of each instruction, the part of the model that it is for."""
    parts: Any = program.info.get("parts") or [[0, "program"]]
    ends = [first for first, _ in parts[1:]] + [len(program.instructions)]
    return [name for (first, name), end in zip(parts, ends, strict=True) for _ in range(first, end)]


def ledger(program: Program, config: Config, activity: np.ndarray) -> Ledger:
    """Every event of a run, from its `sim.cycles.ACTIVITY`; of the boot, nothing."""
    events = Events(config)
    result: Ledger = defaultdict(float)
    of = {Unit.LOAD: events.load, Unit.STREAM: events.stream, Unit.MATMUL: events.matmul, Unit.VECTOR: events.vector,
          Unit.STORE: events.store, Unit.CONTROL: events.control}
    fetch = events.read("CONTROL", "program")
    operands = Event("CONTROL", "operands", ((1, "add", 40), (4, "add", 16)))
    for word, part, n in zip(to_words(program.instructions), part_names(program), activity, strict=False):
        unit, f = fields(word)
        found = [(fetch, n["executions"]), (operands, n["executions"]), *of[unit](f, n)]
        if config.dram.kind != "fixed":
            found += events.dram(n)
        for event, count in found:
            if count:
                result[part, event] += float(count)
    return dict(result)


__all__ = ["NOT_COUNTED", "Event", "Events", "Ledger", "ledger", "part_names"]
