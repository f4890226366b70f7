"""``wordline fpga``: does it fit a device, and bitstreams."""

import json
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import ConfigArgument, JsonOption, SetOption, one_line_errors, say
from wordline.fpga.devices import DEVICES, find_device
from wordline.fpga.resources import Estimate, Estimator, as_dict, smaller_arrays
from wordline.rtl.config import Config, load_config
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

    Example:  wordline fpga resources kv260 --device kv260
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
        proposal = _shrink(cfg, estimate, count) if fit and estimate.excess else None
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
                print("No smaller array fits: what is missing is taken by memories or by the vector unit.")
        if estimate.excess:
            raise typer.Exit(1)


def _shrink(config: Config, estimate: Estimate, count) -> tuple[Config, Estimate] | None:
    """The largest smaller array that fits, with its count; None where no array helps."""
    for candidate in smaller_arrays(config):
        a = candidate.array
        say(f"trying {a.rows} rows x {a.cols} columns x {a.lanes} lanes")
        found = count(candidate)
        if not found.excess:
            return candidate, found
    return None
