"""From a model to a bitstream: Yosys, nextpnr and ecppack on the plan of a board, and a report of what came out."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from wordline.compiler.model import Model
from wordline.compiler.transformer import compile_model
from wordline.fpga.boards import Board, plan
from wordline.fpga.host import BytePairs
from wordline.fpga.uart_top import UartTop
from wordline.rtl.config import Config

#: Runs a tool with arguments in a folder.
Run = Callable[[list[str], Path], str]
#: nextpnr's names of what a device has, and ours.
_KINDS = {"TRELLIS_COMB": "LUT4", "TRELLIS_FF": "FF", "MULT18X18D": "DSP", "DP16KD": "EBR"}


@dataclass(frozen=True)
class Hop:
    """One part of the critical path: the cell that it arrives at, by its place in the hierarchy, and nanoseconds."""

    kind: str
    cell: str
    ns: float


@dataclass(frozen=True)
class Report:
    """What place and route made of a design.

    Attributes
    ----------
    used, available : dict[str, int], LUT4, FF, DSP, EBR
    fmax_mhz, wanted_mhz : float, of the core's clock
    path : list[Hop], the longest
    """

    board: str
    used: dict[str, int]
    available: dict[str, int]
    fmax_mhz: float
    wanted_mhz: float
    path: list[Hop]

    @property
    def margin(self) -> float:
        return self.fmax_mhz / self.wanted_mhz - 1


def make_top(board: Board, config: Config, model: Model) -> UartTop:
    """The board's circuit with a model in its memory."""
    program = compile_model(model, config, context=board.context, keep_logits=False)
    return UartTop(config, program, BytePairs.read(model.folder), eos=model.config.eos, divisor=board.divisor)


def read_report(board: Board, text: str) -> Report:
    """A `Report` out of nextpnr's ``--report``."""
    tree = json.loads(text)
    clock, figures = max(tree["fmax"].items(), key=lambda item: item[1]["constraint"])
    usage = {ours: tree["utilization"][theirs] for theirs, ours in _KINDS.items()}
    path = next((p for p in tree["critical_paths"] if clock in p["from"] and clock in p["to"]), {"path": []})
    hops = [Hop(step["type"], str(step["to"]["cell"]), round(step["delay"], 2)) for step in path["path"]]
    return Report(board.name, {k: v["used"] for k, v in usage.items()}, {k: v["available"] for k, v in usage.items()},
                  round(figures["achieved"], 2), round(figures["constraint"], 2), hops)


def build(board: Board, top: UartTop, sources: dict[str, str], folder: Path, *, yosys: Run, nextpnr: Run,
          ecppack: Run, seed: int = 0, say: Callable[[str], None] = lambda line: None) -> Report:
    """Write ``top.bit``, ``top.svf`` and ``report.json`` into `folder`, whole or not at all, with the build's files.

    The same model, configuration, seed and tools give the same bytes.

    Raises
    ------
    ValueError
        The router's result is slower than the board's clock; the report is written, the bitstream is not.
    """
    seed = seed or board.seed
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        say("writing RTLIL and pins")
        for name, content in plan(board, top, sources).files.items():
            (work / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        say("Yosys: mapping to cells (6 minutes on a free core)")
        yosys(["-q", "-l", "top.rpt", "top.ys"], work)
        say(f"nextpnr: placing and routing, seed {seed} (10 to 20 minutes)")
        nextpnr(["--85k", "--package", "CABGA381", "--speed", "6", "--json", "top.json", "--lpf", "top.lpf",
                 "--textcfg", "top.config", "--seed", str(seed), "--router", "router2", "--timing-allow-fail",
                 "--report", "nextpnr.json", "--log", "top.tim"], work)
        report = read_report(board, (work / "nextpnr.json").read_text())
        (work / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
        say("ecppack: writing the bitstream")
        ecppack(["--input", "top.config", "--bit", "top.bit", "--svf", "top.svf"], work)
        kept = ["report.json", "top.tim", "top.rpt", "top.lpf", "top.ys", "top.il", *sorted(sources)]
        if report.margin >= 0:
            kept += ["top.bit", "top.svf"]
        for name in kept:
            shutil.move(work / name, folder / name)
    if report.margin < 0:
        raise ValueError(f"{board.title} reaches {report.fmax_mhz} of {report.wanted_mhz} MHz with seed {seed}: try "
                         f"another with --seed; {folder / 'report.json'} has the longest path")
    return report
