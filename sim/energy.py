"""Energy of a decode step: event counts of the cycle model times energies per event.

Counts come from `sim.events` (provenance `cycles`: the model equals the RTL), energies from an `EnergyTable`. The one
that ships, ``energy_table.toml``, holds published constants. **Characterised gates plug in here**: a file with
``[event."NAME"]`` entries, tag ``gates``, given to `load_table`, or any other object with the method of `EnergyTable`.
"""

import math
import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wordline.compiler.model import Model
from wordline.compiler.program import Program
from wordline.compiler.transformer import compile_model
from wordline.rtl.config import Config
from wordline.sim import cycles, dram
from wordline.sim.events import NOT_COUNTED, Event, Events, Ledger, ledger

#: Provenances, from the best to the worst; a sum has that of its worst part.
TAGS = ("gates", "table", "assumed")
#: What is said of a number outside the published points.
BEYOND = "the nearest published size, scaled beyond it"
#: Part of what takes energy by time alone.
TIME = "time"
#: Parts that a decode step has once; it has all others once a layer.
ONCE = ("step", "embedding", "head", TIME)


class EnergyError(ValueError):
    """An energy table that cannot be used, or does not have what a configuration needs."""


@dataclass(frozen=True)
class Price:
    """Energy of one event: picojoules, where the number comes from, and a tag out of `TAGS`."""

    pj: float
    sources: tuple[str, ...]
    tag: str


class EnergyTable(Protocol):
    """What a roll-up asks for energies."""

    name: str
    technology: str

    def price(self, event: Event) -> Price:
        """Energy of one event.

        Raises
        ------
        EnergyError
        """
        ...


class ConstantTable:
    """An `EnergyTable` out of a TOML file: whole events by name, else the sum over an event's recipe."""

    def __init__(self, tree: dict[str, Any], path: str):
        self.tree, self.path = tree, path
        try:
            self.name, self.technology = str(tree["name"]), str(tree["technology"])
            self._events = {name: Price(e["pj"], (e["source"],), e["tag"]) for name, e in tree.get("event", {}).items()}
            points = np.array(tree["sram"]["points"], float)
        except KeyError as error:
            raise EnergyError(f"{path}: {error} is missing") from None
        for name, e in self._events.items():
            if e.tag not in TAGS or e.pj < 0:
                raise EnergyError(f"{path}: event {name!r}: tag one of {', '.join(TAGS)}, pj not negative")
        terms = np.column_stack([np.ones(len(points)), np.log(points[:, :2])])
        self._sram = {kind: np.linalg.lstsq(terms, np.log(points[:, column]), rcond=None)[0]
                      for kind, column in (("read", 2), ("write", 3))}
        self._sram_range = points[:, :2].min(0), points[:, :2].max(0)

    def price(self, event: Event) -> Price:
        if event.name in self._events:
            return self._events[event.name]
        parts = [(number, self._primitive(name, *sizes)) for number, name, *sizes in event.recipe]
        sources = [source for _, p in parts for source in p.sources] + [event.assumed]
        tag = max((p.tag for _, p in parts), key=TAGS.index)
        return Price(sum(number * p.pj for number, p in parts), tuple(dict.fromkeys(filter(None, sources))),
                     "assumed" if event.assumed else tag)

    def _primitive(self, name: str, *sizes: Any) -> Price:
        if name in self._sram:
            return self.sram(name, *sizes)
        if name == "dram":
            return self.dram(*sizes)
        entry = self.tree.get("primitive", {}).get(name)
        if entry is None:
            raise EnergyError(f"{self.path}: no [primitive.{name}]")
        x, (at, pj) = math.prod(sizes), zip(*entry["points"], strict=True)
        if at[0] <= x <= at[-1]:
            return Price(float(np.interp(x, at, pj)), (entry["source"],), "table")
        nearest = 0 if x < at[0] else -1
        return Price(pj[nearest] * x / at[nearest], (entry["source"], BEYOND), "assumed")

    def sram(self, access: str, bits: int, width: int) -> Price:
        """A read or write of `width` bits of an SRAM of `bits` bits."""
        c, a, b = self._sram[access]
        low, high = self._sram_range
        inside = np.all((low <= (bits, width)) & ((bits, width) <= high))
        sources = (self.tree["sram"]["source"],) if inside else (self.tree["sram"]["source"], BEYOND)
        return Price(float(np.exp(c) * bits**a * width**b), sources, "table" if inside else "assumed")

    def dram(self, device: str, command: str) -> Price:
        """A command of all chips of a channel, or a nanosecond of its standby."""
        known = self.tree.get("dram", {})
        d = known.get(known.get(device, {}).get("same_as", device))
        if d is None:
            raise EnergyError(f"{self.path}: no energies of DRAM {device!r} are known, only of "
                              f"{', '.join(self.tree.get('dram', {}))}: give them with --table, or leave DRAM out "
                              "with --set dram.kind=fixed")
        bits = 8 * dram.device(device).burst_bytes
        chips = bits / d["chip_bits"]
        if command.endswith("I/O"):
            # What is known are reads; the far end's termination takes a write's current.
            if command.startswith("WR"):
                return Price(bits * d["io_pj"], (d["io_source"], "on the wires, writes as reads"), "assumed")
            return Price(bits * d["io_pj"], (d["io_source"],), d["io_tag"])
        pj = {"ACT+PRE": 1e3 * d["act"], "RD": 1e3 * d["read"], "WR": 1e3 * d["write"], "REF": 1e3 * d["refresh"],
              "standby": d["standby_mw"]}[command]
        if pj == 0:
            return Price(0.0, (f"not found, taken as 0: {device} {command}",), "assumed")
        return Price(chips * pj, (d["source"],), d.get("tag", "table"))


def load_table(path: str | Path = "") -> EnergyTable:
    """The energy table of a TOML file laid over the one that ships: what it does not have stays.

    Raises
    ------
    EnergyError
    """
    shipped = Path(__file__).with_name("energy_table.toml")
    tree = tomllib.loads(shipped.read_text())
    if not path:
        return ConstantTable(tree, shipped.name)
    try:
        over = tomllib.loads(Path(path).read_text())
    except tomllib.TOMLDecodeError as error:
        raise EnergyError(f"{path}: not TOML: {error}") from None
    unknown = set(over) - {"name", "technology", "event", "primitive", "sram", "dram"}
    if unknown:
        raise EnergyError(f"{path}: unknown: {', '.join(sorted(unknown))}")
    for key, value in over.items():
        tree[key] = tree.get(key, {}) | value if isinstance(value, dict) and key != "sram" else value
    return ConstantTable(tree, str(path))


@dataclass(frozen=True)
class Row:
    """One kind of event in one part of the model: how often, and what each costs."""

    unit: str
    part: str
    event: str
    count: float
    pj_each: float
    tag: str
    sources: tuple[str, ...]

    @property
    def pj(self) -> float:
        return self.count * self.pj_each


@dataclass(frozen=True)
class Step:
    """A decode step on the cycle model: the token at position `context` - 1, from one step's end to the next's.

    Attributes
    ----------
    activity : structured array `cycles.ACTIVITY`
    commands : dict[str, int]
        DRAM's commands, as the DRAM counted them.
    """

    program: Program
    config: Config
    context: int
    cycles: int
    activity: np.ndarray
    commands: dict[str, int]

    @property
    def ns(self) -> float:
        return self.cycles * 1e3 / self.config.clock_mhz


def decode_step(model: Model, config: Config, context: int = 0) -> Step:
    """Two runs, of one step and of two; their difference is one step without the boot.

    Parameters
    ----------
    context : int
        Tokens that the step's token attends to, itself included, at least 2; 0 for the model's longest.
    """
    context = context or model.config.context
    if context < 2:
        raise EnergyError(f"context = {context}: at least 2")
    program = compile_model(model, config, context=context, keep_logits=False)
    start = context - 2
    one, two = (cycles.run(program, config, (start + 1, start + n, start, -1)) for n in (1, 2))
    activity = two.activity.copy()
    for name in cycles.ACTIVITY.names or ():
        activity[name] -= one.activity[name]
    commands = {name: n - one.dram.commands[name] for name, n in two.dram.commands.items()}
    return Step(program, config, context, two.cycles - one.cycles, activity, commands)


def rows_of(counts: Ledger, table: EnergyTable) -> list[Row]:
    price = cache(table.price)
    result = []
    for (part, event), count in counts.items():
        p = price(event)
        result.append(Row(event.unit, part, event.name, count, p.pj, p.tag, p.sources))
    return result


@dataclass(frozen=True)
class Report:
    """Energy of one token.

    Attributes
    ----------
    ns : float
        Time of the step.
    rows : list[Row]
        Everything; all other figures are sums over them.
    notes : list[str]
        What to know before a figure is quoted.
    """

    config: str
    model: str
    context: int
    layers: int
    cycles: int
    ns: float
    table: str
    technology: str
    rows: list[Row]
    notes: list[str]

    @property
    def pj(self) -> float:
        return sum(row.pj for row in self.rows)

    @property
    def watts(self) -> float:
        return self.pj / self.ns / 1e3

    def by(self, *keys: str) -> dict[Any, float]:
        """pJ by a field of `Row`, or by several, largest first."""
        result: dict[Any, float] = {}
        for row in self.rows:
            key = getattr(row, keys[0]) if len(keys) == 1 else tuple(getattr(row, k) for k in keys)
            result[key] = result.get(key, 0.0) + row.pj
        return dict(sorted(result.items(), key=lambda item: -item[1]))

    @property
    def layer_pj(self) -> float:
        """Of one layer: all are alike, so it is what the layers take together divided by their number."""
        return sum(pj for part, pj in self.by("part").items() if part not in ONCE) / self.layers

    def to_dict(self) -> dict[str, Any]:
        """Plain data; energies in pJ."""
        head = {k: v for k, v in asdict(self).items() if k not in ("rows", "notes")}
        sums = {f"by_{key}": self.by(key) for key in ("unit", "part", "tag")}
        return head | {"pj_per_token": self.pj, "watts": self.watts, "pj_per_layer": self.layer_pj} | sums | {
            "counts": "cycles", "notes": self.notes, "rows": [asdict(row) | {"pj": row.pj} for row in self.rows]}


def report(step: Step, table: EnergyTable | None = None) -> Report:
    """Energy of a step.

    Raises
    ------
    EnergyError
        The table does not know the configuration's DRAM.
    """
    table, config, info = table or load_table(), step.config, step.program.info
    counts = ledger(step.program, config, step.activity)
    notes = [f"Logic and SRAM: {table.technology}. An FPGA takes about 14 times the dynamic power (Kuon, Rose, 90 nm)."]
    timing = dram.timing_of(config)
    if timing is None:
        notes.append('dram.kind is "fixed", which is no DRAM: its energy is left out (--set dram.kind=ddr4-2400).')
    else:
        refresh_ns = timing.tREFI * timing.tck_ps / 1e3
        counts |= {(TIME, event): n for event, n in Events(config).time(step.ns, refresh_ns, timing.channels)}
    notes.append(f"Not counted: {'; '.join(NOT_COUNTED)}.")
    rows = sorted(rows_of(counts, table), key=lambda row: -row.pj)
    layers: Any = info["layers"]
    return Report(config.name, str(info["model"]), step.context, layers, step.cycles, step.ns, table.name,
                  table.technology, rows, notes)
