"""``wordline fpga``: does it fit a device, and bitstreams."""

import json
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import ConfigArgument, JsonOption, SetOption, one_line_errors, say
from wordline.compiler.model import load_model
from wordline.fpga.boards import BOARDS, plan
from wordline.fpga.build import Report, make_array, make_sdram, make_top
from wordline.fpga.build import build as build_board
from wordline.fpga.devices import DEVICES, Device, find_device
from wordline.fpga.resources import Estimate, Estimator, as_dict, shrink
from wordline.rtl.config import Config, ConfigError, load_config
from wordline.sim import rtl, toolchain

app = typer.Typer(no_args_is_help=True, help="Devices: what a configuration takes, and what a board is given.")


@app.callback()
def _fpga() -> None:
    """FPGAs."""


def _estimator() -> Estimator:
    yosys = toolchain.yosys()
    start = time.time()
    return Estimator(lambda args, cwd: yosys.run(args, cwd=cwd), yosys.version, toolchain.cache_dir(),
                     lambda line: say(f"{time.time() - start:6.0f} s  {line}"))


def _print(estimate: Estimate, title: str) -> None:
    device = estimate.device
    names = list(device.capacity)
    table = Table("unit", *names, title=title)
    for unit, counts in estimate.units.items():
        table.add_row(unit, *(f"{counts[name]:g}" for name in names))
    table.add_section()
    total = estimate.total
    table.add_row("total", *(f"{total[name]:g}" for name in names), style="bold")
    table.add_row(f"{device.part} has", *(f"{device.capacity[name]}" for name in names))
    table.add_row("share", *(f"{total[name] / device.capacity[name]:.1%}" if device.capacity[name] else ""
                             for name in names))
    Console().print(table)
    repeated = [f"{name} x {times}" for name, (times, _) in estimate.parts.items() if times > 1]
    if repeated:
        print(f"Synthesised once, counted as often as it is there: {', '.join(repeated)}.")
    print(f"Capacity: {device.source}. LUTs are not packed in pairs, as place and route may do.")


def _verdict(estimate: Estimate) -> str:
    if not estimate.excess:
        return f"fits {estimate.device.board}"
    total, capacity = estimate.total, estimate.device.capacity
    return f"does not fit {estimate.device.board}: " + ", ".join(
        f"{total[name]:g} {name} of {capacity[name]}" for name in estimate.excess)


@app.command()
def resources(
    config: ConfigArgument,
    device: Annotated[str, typer.Option(help=f"One of: {', '.join(DEVICES)}.")] = "kv260",
    fit: Annotated[bool, typer.Option("--fit", help="If it does not fit, propose the largest smaller array that does.")
                   ] = False,
    flat: Annotated[bool, typer.Option("--flat", help="Also synthesise everything at once, to compare (small "
                                       "configurations).")] = False,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Count what a configuration takes of a device, by Yosys, unit by unit; exit code 1 if it does not fit.

    Equal modules are synthesised once; what was synthesised is kept in the cache, so that a second run takes seconds.
    A first run takes minutes.

    Examples:

      wordline fpga resources kv260 --device kv260

      wordline fpga resources ulx3s --device pynq-z2 --set array.lanes=64 --fit
    """
    with one_line_errors():
        target = find_device(device)
        cfg = load_config(config, set_ or [])
        estimator = _estimator()

        def count(candidate: Config, flat: bool = False) -> Estimate:
            return estimator.estimate(candidate, rtl.sources(candidate), target, flat=flat)

        say(f"Verilog of {cfg.name}, then Yosys {estimator.version} (minutes, what is cached excepted)")
        estimate = count(cfg)
        result = {"config": cfg.name, "tool": f"yosys {estimator.version}"} | as_dict(estimate)
        whole = count(cfg, flat=True) if flat else None
        if whole:
            result["flat"] = whole.total
        proposal = shrink(cfg, count, say) if fit and estimate.excess else None
        if proposal:
            a = proposal[0].array
            result["fit"] = {"rows": a.rows, "cols": a.cols, "lanes": a.lanes, "total": proposal[1].total}
        if json_:
            print(json.dumps(result, indent=2))
        else:
            _print(estimate, f"{cfg.name} on {target.board}")
            if whole:
                for name, used in whole.total.items():
                    parts = estimate.total[name]
                    print(f"{name}: {parts:g} in parts, {used:g} at once"
                          + (f" ({parts / used - 1:+.1%})" if used else ""))
            print(_verdict(estimate))
            if proposal:
                print(f"With array.rows={a.rows} array.cols={a.cols} array.lanes={a.lanes} it {_verdict(proposal[1])}.")
            elif fit and estimate.excess:
                print(f"No smaller array fits; --set {_culprits(estimate)} smaller.")
        if estimate.excess:
            raise typer.Exit(1)


def fitting(config: Config, device: Device, fit: bool) -> Config:
    """`config` if it fits `device`, by count; else, if `fit`, the same with the largest smaller array that does.

    Raises
    ------
    ConfigError
        It does not fit, or no smaller array does.
    """
    estimator = _estimator()

    def count(candidate: Config) -> Estimate:
        return estimator.estimate(candidate, rtl.sources(candidate), device)

    say(f"counting what {config.name} takes, Yosys {estimator.version} (minutes, what is cached excepted)")
    estimate = count(config)
    if not estimate.excess:
        return config
    verdict = f"{config.name} {_verdict(estimate)}"
    if not fit:
        raise ConfigError(f"{verdict}. --fit takes the largest smaller array that does, --no-check does not count")
    smaller = shrink(config, count, say)
    if smaller is None:
        raise ConfigError(f"{verdict}. No smaller array fits; --set {_culprits(estimate)} smaller")
    a = smaller[0].array
    say(f"{verdict}. Smaller array, which `wordline compile` must be told too: "
        f"--set array.rows={a.rows} --set array.cols={a.cols} --set array.lanes={a.lanes}")
    return smaller[0]


def _culprits(estimate: Estimate) -> str:
    """The fields that decide over what is missing, the array's aside."""
    if {"BRAM36", "URAM", "EBR"} & set(estimate.excess):
        return "memory.vector_floats, matmul_floats, load_floats, act_elements, stream_beats"
    return "vector.lanes"


@app.command()
def build(
    board: Annotated[str, typer.Argument(help=f"One of: {', '.join(BOARDS)}.")],
    model: Annotated[str, typer.Option(help="A model folder; 'austen', the embedded model, by default.")] = "",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; build/BOARD by default.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of place and route; 0: one that is known to route.")] = 0,
    selftest: Annotated[bool, typer.Option("--selftest", help="One PE array that tests itself in place of accelerator "
                                           "and model: a minute, to try cable and board.")] = False,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a bitstream of a board with a model in its block RAM: type a prompt into its serial port, get text.

    Boards too small for the accelerator get one PE array that tests itself: any byte on the serial port brings a line.
    ulx3s-sdram has its model in SDRAM: a computer sends it over the serial port (docs/boards.md).
    Needs no tool but those of `pip install 'wordline[boards]'`. Takes some 10 minutes (Yosys 2), a PE array one or two.

    Examples:

      wordline fpga build ulx3s --model austen

      wordline fpga build icebreaker

      wordline fpga build ecpix5 --selftest
    """
    with one_line_errors():
        if board not in BOARDS:
            raise ConfigError(f"no board {board!r}: one of {sorted(BOARDS)}")
        target = BOARDS[board]
        folder = output or Path("build") / board
        tools = {"yosys": toolchain.yosys(), "nextpnr": toolchain.nextpnr(target.chip),
                 "pack": toolchain.packer(target.chip)}
        start = time.time()
        if selftest or not target.config:
            if model or set_:
                raise ConfigError(f"{board} carries one PE array and no model here: leave out --model and --set")
            files = plan(target, make_array(target), {})
        elif target.sdram:
            if model:
                raise ConfigError(f"{board} gets its model over the serial port (docs/boards.md): leave out --model")
            config = load_config(target.config, set_ or [])
            files = plan(target, make_sdram(target, config), rtl.sources(config))
        else:
            config = load_config(target.config, set_ or [])
            say(f"compiling {model or 'austen'} and the RTL of {config.name}")
            files = plan(target, make_top(target, config, load_model(model or "austen")), rtl.sources(config))
        report = build_board(
            target, files, folder, seed=seed, say=lambda line: say(f"{time.time() - start:6.0f} s  {line}"),
            **{name: partial(_run, tool) for name, tool in tools.items()})
        bitstream = folder / target.flow.products[0]
        if json_:
            print(json.dumps(asdict(report) | {"bitstream": str(bitstream)}, indent=2))
        else:
            _print_report(report)
            print(f"bitstream: {bitstream}   load it with: openFPGALoader -b {target.loader} {bitstream}")
            if selftest or not target.config:
                print(f"any byte at {target.baud} baud brings: {target.array.expected_line().strip()}")


def _run(tool: toolchain.Tool, args: list[str], folder: Path) -> str:
    return tool.run(args, cwd=folder)


def _print_report(report: Report) -> None:
    table = Table("", *report.used, title=f"{report.board} after place and route")
    table.add_row("used", *(str(n) for n in report.used.values()))
    table.add_row("of", *(str(n) for n in report.available.values()))
    Console().print(table)
    print(f"{report.fmax_mhz:.1f} MHz, {report.wanted_mhz:.1f} wanted: margin {report.margin:+.0%}")
    print("longest path, ns in cells and on wires:")
    for hop in report.path:
        print(f"  {hop.logic_ns:6.2f} {hop.wires_ns:6.2f}  {hop.signal}")
