"""From a model to a bitstream: Yosys, nextpnr and a packer on the plan of a board, and a report of what came out."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from amaranth.build.run import BuildPlan

from wordline.compiler.model import Model
from wordline.compiler.transformer import compile_model
from wordline.fpga.boards import Board
from wordline.fpga.host import BytePairs
from wordline.fpga.pe_selftest import PeSelfTest
from wordline.fpga.sdram_top import SdramTop
from wordline.fpga.uart_top import UartTop
from wordline.rtl.config import Config
from wordline.rtl.sdram import SdramTiming

#: Runs a tool with arguments in a folder.
Run = Callable[[list[str], Path], str]


# What Yosys appends to the name of a signal for the cells that it makes of it.
_CELL = re.compile(r"(_(SB_)?(LUT[1-6]|CCU2C|PFUMX|L6MUX21|TRELLIS|DFF|MULT|DP16KD|ABC9|CARRY|ALU|MUX2)|[$.]comb|\$lc"
                   r"|(\.|\$)(lut|auto|abc|procdff|memory|flatten)).*")


def place_of(name: str) -> str:
    """The signal that a cell or a wire was made of, by its place in the hierarchy."""
    return _CELL.sub("", name)


@dataclass(frozen=True)
class Hop:
    """A stretch of the critical path: the signal that it is part of, by its place in the hierarchy, and nanoseconds
    in cells and on wires."""

    signal: str
    logic_ns: float
    wires_ns: float


def stretches(path: list[dict]) -> list[Hop]:
    """nextpnr's steps of a path, put together as long as they belong to one signal."""
    hops: list[Hop] = []
    for step in path:
        signal, ns, wire = place_of(str(step["to"]["cell"])), step["delay"], step["type"] == "routing"
        before = hops.pop() if hops and hops[-1].signal == signal else Hop(signal, 0.0, 0.0)
        hops.append(Hop(signal, before.logic_ns + ns * (not wire), before.wires_ns + ns * wire))
    return [Hop(h.signal, round(h.logic_ns, 2), round(h.wires_ns, 2)) for h in hops]


@dataclass(frozen=True)
class Report:
    """What place and route made of a design.

    Attributes
    ----------
    used, available : dict[str, int], LUT4, FF, DSP, EBR; what the device has
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
    """The circuit of a board that carries the accelerator, with a model in its memory."""
    program = compile_model(model, config, context=board.context, keep_logits=False)
    return UartTop(config, program, BytePairs.read(model.folder), eos=model.config.eos, divisor=board.divisor)


def make_sdram(board: Board, config: Config) -> SdramTop:
    """The circuit of a board that carries the accelerator, and its model in SDRAM."""
    return SdramTop(config, SdramTiming.at(board.clock_mhz), divisor=board.divisor)


def make_array(board: Board) -> PeSelfTest:
    """One PE array that tests itself, for any board."""
    return PeSelfTest(board.array, divisor=board.divisor)


def read_report(board: Board, text: str) -> Report:
    """A `Report` out of nextpnr's ``--report``."""
    tree = json.loads(text)
    clock, figures = max(tree["fmax"].items(), key=lambda item: item[1]["constraint"])
    usage = {ours: tree["utilization"][theirs] for theirs, ours in board.flow.kinds.items()
             if theirs in tree["utilization"]}
    path = next((p for p in tree["critical_paths"] if clock in p["from"] and clock in p["to"]), {"path": []})
    return Report(board.name, {k: v["used"] for k, v in usage.items()}, {k: v["available"] for k, v in usage.items()},
                  round(figures["achieved"], 2), round(figures["constraint"], 2), stretches(path["path"]))


def synthesise(files: BuildPlan, yosys: Run, folder: Path) -> None:
    """Write a plan's files into a folder, and ``top.json``, the cells that place and route are given."""
    for name, content in files.files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    yosys(["-q", "-l", "top.rpt", "top.ys"], folder)


def build(board: Board, files: BuildPlan, folder: Path, *, yosys: Run, nextpnr: Run, pack: Run, seed: int = 0,
          say: Callable[[str], None] = lambda line: None) -> Report:
    """Write the bitstream and ``report.json`` of a plan into `folder`, whole or not at all, with the build's files.

    The same plan, seed and tools give the same bytes.

    Raises
    ------
    ValueError
        The router's result is slower than the board's clock; the report is written, the bitstream is not.
    """
    seed, flow = seed or board.seed, board.flow
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        work = Path(temporary)
        say("Yosys: mapping to cells")
        synthesise(files, yosys, work)
        say(f"nextpnr: placing and routing, seed {seed}")
        nextpnr([*board.device, "--json", flow.netlist, *flow.constraints, *flow.routed, *flow.routing, "--seed",
                 str(seed), "--freq", f"{board.clock_mhz:g}", "--report", "nextpnr.json", "--log", "top.tim"], work)
        report = read_report(board, (work / "nextpnr.json").read_text())
        (work / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n")
        say(f"packing {flow.products[0]}")
        pack([*board.packing, *flow.packing], work)
        kept = ["report.json", "top.tim", "top.rpt", flow.pins, "top.ys", "top.il",
                *(name for name in files.files if name.endswith(".v") and not name.startswith("top."))]
        if report.margin >= 0:
            kept += flow.products
        for name in kept:
            shutil.move(work / name, folder / name)
    if report.margin < 0:
        raise ValueError(f"{board.title} reaches {report.fmax_mhz} of {report.wanted_mhz} MHz with seed {seed}: try "
                         f"another with --seed; {folder / 'report.json'} has the longest path")
    return report
