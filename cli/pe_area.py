"""``wordline pe area``: what the processing elements cost, all synthesised by one flow."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import JsonOption, console, one_line_errors, say
from wordline.fpga import gates, pe_area
from wordline.fpga.pe_plots import plot as draw
from wordline.fpga.pe_points import YARDSTICK, Point, all_points
from wordline.fpga.pe_studies import Study, studies
from wordline.sim import toolchain


def area(
    families: Annotated[list[str] | None, typer.Argument(help="Families to compare; see --all.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every family.")] = False,
    liberty: Annotated[Path | None, typer.Option(
        help="Standard cells. Default: OSU 180 nm, if Debian's qflow-tech-osu018 is installed.")] = None,
    fpga: Annotated[Literal["ecp5", "xilinx"] | None, typer.Option(
        help="Count LUTs instead of standard cells.")] = None,
    clock_ns: Annotated[float, typer.Option(min=0.01, help="Longest path wanted between flip-flops.")] = 12.0,
    plot: Annotated[Path | None, typer.Option(help="Folder for the plots (SVG).")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder: area.json, area.csv.")] = Path(
        "results/pe-area"),
    json_: JsonOption = False,
) -> None:
    """Area and longest path of processing elements, per product a cycle, beside FP16 and the papers.

    Every design goes through the same synthesis (Yosys) to the same library at the same clock. "Alone" is the PE as
    papers count it; "whole" adds table precompute, encoders, dequantisers and operand registers. What was
    synthesised once is kept in a cache. The yardstick `fp16_mac` is always measured.

    Examples:

      wordline pe area --all --liberty sg13g2_stdcell_typ.lib --plot results/pe-area

      wordline pe area mac bit_serial --fpga ecp5
    """
    with one_line_errors():
        chosen = _chosen(families or [], all_)
        yosys = toolchain.yosys()

        def run(args: list[str], cwd: Path) -> str:
            return yosys.run(args, cwd=cwd)

        library = gates.load_library(liberty) if fpga is None else None
        target = (pe_area.GateTarget(library, clock_ns, run, yosys.version) if library
                  else pe_area.FpgaTarget(fpga or "", run, yosys.version))
        failed: dict[str, str] = {}
        rows = pe_area.measure(chosen, target, toolchain.cache_dir(), say, failed)
        clock = None if fpga else clock_ns
        yardstick = next((row for row in rows if row.point.name == YARDSTICK), None)
        tree: dict = {
            "command": ["wordline", *sys.argv[1:]], "date": date.today().isoformat(),
            "tool": f"yosys {yosys.version}", "target": target.name, "clock_ns": clock,
            "nand2_um2": library.nand2_um2 if library else None,
        }
        points = pe_area.records(rows, yardstick, clock)
        compared = studies(points)
        tree |= {"points": points, "studies": [study.to_dict() for study in compared], "failed": failed}
        written = pe_area.write(output, tree)
        if plot is not None:
            written += draw(tree, compared, plot)
        console.print(", ".join(str(path) for path in written))
        if json_:
            print(json.dumps(tree, indent=2))
        else:
            _print(tree)
            for study in compared:
                _print_study(study)
        if failed:
            raise toolchain.ToolFailed("; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def _chosen(families: list[str], all_: bool) -> list[Point]:
    points = all_points()
    known = list(dict.fromkeys(p.family for p in points))
    wrong = [name for name in families if name not in known]
    if wrong:
        raise ValueError(f"no family {', '.join(wrong)}; there are {', '.join(known)}")
    if not families and not all_:
        raise ValueError(f"name a family or --all; there are {', '.join(known)}")
    return [p for p in points if all_ or p.family in families or p.name == YARDSTICK]


def _print(tree: dict) -> None:
    nand2 = tree["nand2_um2"]
    unit = "um2" if nand2 else tree["points"][0]["size"]
    table = Table(title=f"{tree['target']}, {tree['tool']}, {tree['date']}, provenance: {pe_area.PROVENANCE}\n"
                        f"{unit} for one product a cycle, alone and whole; ratios to fp16_mac")
    table.add_column("PE", no_wrap=True)
    more = ["NAND2", "path ns"] if nand2 else tree["points"][0]["resources"]
    for title in ("per cycle", unit, *more, "alone", "whole", "ratio", "ratio"):
        table.add_column(title, justify="right", no_wrap=True)
    for p in tree["points"]:
        gate = ([f"{p['alone'] / nand2:.0f}", f"{p['path_ns']:.2f}"] if nand2
                else [f"{used:g}" for used in p["resources"].values()])
        ratios = ["" if p[key] is None else f"{p[key]:.2f}" for key in ("alone_ratio", "whole_ratio")]
        table.add_row(f"{p['family']} {p['weights']} x {p['acts']}", f"{p['macs_per_cycle']:.3g}", f"{p['alone']:.0f}",
                      *gate, f"{p['alone_per_mac']:.0f}", f"{p['whole_per_mac']:.0f}", *ratios)
    _out().print(table)


def _print_study(study: Study) -> None:
    table = Table(*study.columns, title=study.title, title_justify="left")
    for row in study.rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:.0f}" if value >= 100 else f"{value:.3f}"
                        for value in row))
    out = _out()
    out.print(table)
    out.print(f"paper: {study.paper}\nhere:  {study.here}")


def _out() -> Console:
    # A file or a pipe has no width to keep to.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)
