"""Measures the points of `pe_points` with one flow, and puts them side by side at equal throughput.

What was mapped once is not mapped again: results are cached under a hash of the netlist, the flow, the library
and the tool's version.
"""

import csv
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amaranth.back import rtlil

from wordline.fpga import gates, synth
from wordline.fpga.pe_points import Part, Point, Role

#: Where a figure comes from, as in every report of Wordline: a synthesised netlist.
PROVENANCE = "gates"


class Target(Protocol):
    """Something to map to."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> str:
        """Name of the figure that stands for area."""

    def key(self) -> str:
        """Everything that decides a result but the design."""

    def measure(self, text: str, folder: Path) -> dict[str, float | str]:
        """Figures of a design in Yosys' RTLIL with module ``top``."""


@dataclass(frozen=True)
class GateTarget:
    """Standard cells of a Liberty library at a clock."""

    library: gates.Library
    clock_ns: float
    yosys: gates.Run
    version: str

    @property
    def size(self) -> str:
        return "area_um2"

    @property
    def name(self) -> str:
        return f"{self.library.name} at {self.clock_ns:g} ns"

    def key(self) -> str:
        return repr((gates.flow_text(self.clock_ns), self.library.text, self.version))

    def measure(self, text: str, folder: Path) -> dict[str, float | str]:
        return gates.map_gates(text, self.library, self.clock_ns, self.yosys, folder).to_dict()


@dataclass(frozen=True)
class FpgaTarget:
    """LUTs and what else an FPGA has; `fpga` is a target of `fpga.synth`."""

    fpga: str
    yosys: gates.Run
    version: str

    @property
    def name(self) -> str:
        return self.fpga

    @property
    def size(self) -> str:
        return {"ecp5": "LUT4", "xilinx": "LUT"}[self.fpga]

    def key(self) -> str:
        return repr((self.fpga, synth.plain_command(self.fpga, "top"), self.version))

    def measure(self, text: str, folder: Path) -> dict[str, float | str]:
        return dict(synth.map_files({"design.il": text}, "top", self.fpga, self.yosys, folder, synth.plain_command))


@dataclass(frozen=True)
class Measured:
    """A part of a point with its figures for one copy."""

    name: str
    count: float
    role: Role
    figures: dict[str, float | str]


@dataclass(frozen=True)
class Row:
    """A point with its parts' figures. Sizes are in the target's unit (um2, LUTs)."""

    point: Point
    size_name: str
    parts: tuple[Measured, ...]

    def total(self, figure: str, roles: Iterable[str] = ("pe", "outside")) -> float:
        """Sum of a figure over the parts of some roles."""
        return sum(p.count * float(p.figures[figure]) for p in self.parts if p.role in roles)

    @property
    def alone(self) -> float:
        """Size of the PE without what others share or papers leave out."""
        return self.total(self.size_name, ("pe",)) - self.total(self.size_name, ("inside",))

    @property
    def whole(self) -> float:
        """Size with everything charged."""
        return self.total(self.size_name)

    @property
    def resources(self) -> dict[str, float]:
        """What an FPGA has besides LUTs, of the PE itself: flip-flops, multipliers, block RAM."""
        names = [] if self.size_name == "area_um2" else [n for n in self.parts[0].figures if n != self.size_name]
        return {name: self.total(name, ("pe",)) for name in names}

    @property
    def path_ns(self) -> float:
        return max(float(p.figures.get("path_ns", 0)) for p in self.parts)

    def per_mac(self, clock_ns: float | None = None) -> tuple[float, float]:
        """Sizes alone and whole, per product per cycle; a path longer than the clock counts against it."""
        slower = max(1.0, self.path_ns / clock_ns) if clock_ns else 1.0
        return self.alone * slower / self.point.macs, self.whole * slower / self.point.macs


def measure(points: list[Point], target: Target, cache: Path, told: Callable[[str], None],
            failed: dict[str, str] | None = None) -> list[Row]:
    """Map every part of every point. `cache` is a folder; `told` hears what is being done.

    A point that the tool fails on goes into `failed`, by name with the reason, and the others go on.

    Raises
    ------
    RuntimeError
        The tool failed on a point, and there is no `failed`.
    """
    total, done, rows = sum(len(p.parts) for p in points), 0, []
    base = target.key()
    cache.mkdir(parents=True, exist_ok=True)

    def figures_of(point: Point, part: Part) -> dict[str, float | str]:
        text = rtlil.convert(part.build(), name="top", emit_src=False)
        digest = hashlib.sha256((base + text).encode()).hexdigest()[:24]
        stored = cache / f"pe-{digest}.json"
        if stored.exists():
            return json.loads(stored.read_text())
        told(f"[{done}/{total}] {target.name}: {point.name}, {part.name}")
        with tempfile.TemporaryDirectory() as folder:
            figures = target.measure(text, Path(folder))
        fresh = stored.with_suffix(".tmp")
        fresh.write_text(json.dumps(figures))
        fresh.replace(stored)
        return figures

    for point in points:
        parts = []
        try:
            for part in point.parts:
                done += 1
                parts.append(Measured(part.name, part.count, part.role, figures_of(point, part)))
        except RuntimeError as error:
            if failed is None:
                raise
            failed[point.name] = str(error)
            continue
        rows.append(Row(point, target.size, tuple(parts)))
    return rows


def records(rows: list[Row], yardstick: Row | None, clock_ns: float | None) -> list[dict]:
    """Rows as plain data, with sizes per product a cycle and their ratio to the yardstick's."""
    unit = yardstick.per_mac(clock_ns) if yardstick else None
    result = []
    for row in rows:
        alone, whole = row.per_mac(clock_ns)
        result.append({
            "family": row.point.family, "weights": row.point.weights, "weight_bits": row.point.weight_bits,
            "acts": row.point.acts, "unit": row.point.unit, "macs_per_cycle": row.point.macs,
            "size": row.size_name, "alone": row.alone, "whole": row.whole, "path_ns": row.path_ns,
            "alone_per_mac": alone, "whole_per_mac": whole,
            "alone_ratio": alone / unit[0] if unit else None, "whole_ratio": whole / unit[1] if unit else None,
            "resources": row.resources, "provenance": PROVENANCE,
            "parts": [{"name": p.name, "count": p.count, "role": p.role} | p.figures for p in row.parts],
        })
    return result


def write(folder: Path, tree: dict) -> list[Path]:
    """``area.json`` with everything, ``area.csv`` with a line a point, ``area.md`` with tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "area.json").write_text(json.dumps(tree, indent=2) + "\n")
    lines = [{k: v for k, v in record.items() if k not in ("parts", "resources")} | record["resources"]
             for record in tree["points"]]
    with (folder / "area.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    (folder / "area.md").write_text(markdown(tree))
    return [folder / "area.json", folder / "area.csv", folder / "area.md"]


def markdown(tree: dict) -> str:
    """The points and the studies as tables in Markdown."""
    nand2, points = tree["nand2_um2"], tree["points"]
    rows = []
    for p in points:
        gates_ = ([f"{p['alone'] / nand2:.0f}", f"{p['path_ns']:.1f}"] if nand2
                  else [f"{used:g}" for used in p["resources"].values()])
        ratios = ["" if p[key] is None else f"{p[key]:.2f}" for key in ("alone_ratio", "whole_ratio")]
        rows.append([f"{p['family']} {p['weights']} x {p['acts']}", p["unit"], f"{p['macs_per_cycle']:.3g}",
                     f"{p['alone']:.0f}", *gates_, f"{p['alone_per_mac']:.0f}", f"{p['whole_per_mac']:.0f}", *ratios])
    more = ["NAND2", "path ns"] if nand2 else points[0]["resources"]
    header = ["PE", "unit", "products a cycle", points[0]["size"], *more, "alone", "whole", "ratio alone",
              "ratio whole"]
    text = [_table(header, rows)]
    for study in tree["studies"]:
        cells = [[v if isinstance(v, str) else f"{v:.0f}" if v >= 100 else f"{v:.2f}" for v in row.values()]
                 for row in study["rows"]]
        text.append(f"**{study['title']}**\n\n{_table(list(study['rows'][0]), cells)}\n"
                    f"Paper: {study['paper']}.\nHere: {study['here']}.\n")
    return "\n".join(text)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
