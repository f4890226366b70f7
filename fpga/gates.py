"""What a circuit costs in standard cells: Yosys and ABC with any Liberty library, one recipe for every design.

A design is mapped in a few ways and the smallest that meets the clock counts, so that no design is judged by a
mapping that happens not to suit it: multipliers as written or recoded by Booth, gates chosen for area or for
delay. Paths are ABC's estimate from the library's tables without wires, from flip-flop to flip-flop, without
the flip-flops' own delay and setup. Areas are sums of cells: nothing is placed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Run = Callable[[list[str], Path], object]

#: Ways to map: options of Yosys' synth, and what ABC does between reading and sizing.
RECIPES = {
    "area": ("", "dch -f; amap"),
    "delay": ("", "dch -f; map -B 0.9 -D {ps}"),
    "booth area": ("-booth", "dch -f; amap"),
    "booth delay": ("-booth", "dch -f; map -B 0.9 -D {ps}"),
}
_ABC = ("strash; &get -n; &fraig -x; &put; scorr; dc2; {map}; topo; "
        "buffer -c -N 16; upsize -D {ps}; dnsize -D {ps}; stime -d\n")
_NAND2 = re.compile(r"nand2(?!b)", re.I)

NO_LIBRARY = (
    "no Liberty library: give one with --liberty FILE. In Debian, `apt-get install qflow-tech-osu018` "
    "brings OSU's 180 nm cells, which are then found by themselves; IHP's sg13g2 (130 nm, Apache-2.0), which the "
    "tables in docs/pe-area.md are made with, is sg13g2_stdcell_typ_1p20V_25C.lib of its open PDK. "
    "`--fpga ecp5` and `--fpga xilinx` need none")
_DEBIAN = Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")


@dataclass(frozen=True)
class Library:
    """A Liberty file: its text, and the area of its smallest two-input NAND in its own unit (um2)."""

    name: str
    text: str
    nand2_um2: float


@dataclass(frozen=True)
class Gates:
    """A mapped design: areas in um2, the longest path in ns, and the recipe that was the smallest."""

    area_um2: float
    flops_um2: float
    path_ns: float
    cells: int
    recipe: str

    to_dict = asdict


def load_library(path: Path | None) -> Library:
    """Read a Liberty file; without a path, Debian's.

    Raises
    ------
    ValueError
        There is none, it is not Liberty, or it has no two-input NAND.
    """
    if path is None:
        if not _DEBIAN.exists():
            raise ValueError(NO_LIBRARY)
        path = _DEBIAN
    text = path.read_text(errors="replace")
    name = re.search(r"^\s*library\s*\(\s*\"?([^\")]+?)\"?\s*\)", text, re.M)
    if name is None:
        raise ValueError(f"{path}: not a Liberty library: it has no `library (NAME)`")
    nands = [float(area) for cell, area in
             re.findall(r"^\s*cell\s*\(\s*\"?(\w+)\"?\s*\)\s*\{.*?\barea\s*:\s*([\d.eE+-]+)", text, re.M | re.S)
             if _NAND2.search(cell)]
    if not nands:
        raise ValueError(f"{path}: no cell whose name has `nand2`, in units of which areas are given")
    return Library(name[1], text, min(nands))


def script(recipe: str, clock_ns: float) -> tuple[str, str]:
    """Yosys' and ABC's commands of a recipe: ``design.il`` with module ``top`` to ``stat.json`` and ``stats.txt``."""
    options, mapping = RECIPES[recipe]
    ps = round(1000 * clock_ns)
    yosys = (f"read_rtlil design.il; synth -flatten -noabc {options} -top top; dfflibmap -liberty cells.lib; opt; "
             "abc -liberty cells.lib -script abc.script; opt_clean -purge; "
             "tee -q -o stat.json stat -liberty cells.lib -json")
    return yosys, _ABC.format(map=mapping.format(ps=ps), ps=ps)


def flow_text(clock_ns: float) -> str:
    """Everything that decides a result besides the design, the library and the tools' versions."""
    return repr([script(recipe, clock_ns) for recipe in RECIPES])


def map_gates(rtlil: str, library: Library, clock_ns: float, yosys: Run, folder: Path) -> Gates:
    """Map module ``top``, in Yosys' RTLIL: the smallest mapping with paths below `clock_ns`, else the fastest.

    Gates are chosen for delay only where choosing them for area misses the clock. Where the library lacks
    a cell, Yosys ends with an error that says which.
    """
    (folder / "design.il").write_text(rtlil)
    (folder / "cells.lib").write_text(library.text)
    recipes = [name for name in RECIPES if "$mul" in rtlil or "booth" not in name]
    mapped: list[Gates] = []
    for goal in ("area", "delay"):
        mapped += [_map(name, clock_ns, library, yosys, folder) for name in recipes if name.endswith(goal)]
        if best(mapped, clock_ns).path_ns <= clock_ns:
            break
    return best(mapped, clock_ns)


def best(mapped: list[Gates], clock_ns: float) -> Gates:
    """The smallest that meets the clock; if none does, the fastest."""
    fast = [m for m in mapped if m.path_ns <= clock_ns]
    return min(fast, key=lambda m: m.area_um2) if fast else min(mapped, key=lambda m: (m.path_ns, m.area_um2))


def _map(recipe: str, clock_ns: float, library: Library, yosys: Run, folder: Path) -> Gates:
    commands, abc = script(recipe, clock_ns)
    (folder / "abc.script").write_text(abc)
    # ABC's output is lost in the WebAssembly build of Yosys; what `stime -d` appends to a file is not.
    timing = folder / "stats.txt"
    timing.unlink(missing_ok=True)
    yosys(["-q", "-p", commands], folder)
    design = json.loads((folder / "stat.json").read_text())["design"]
    # A design of wires and flip-flops alone has no path: ABC is not even called.
    last = timing.read_text().split() if timing.exists() else ["0"]
    return Gates(design["area"], design.get("sequential_area", 0.0), float(last[-1]) / 1000, design["num_cells"],
                 recipe)
