"""``wordline dram``: the DRAM devices, and traces for other simulators."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import JsonOption, one_line_errors
from wordline.sim import dram_export
from wordline.sim.dram_devices import DEVICES, device

app = typer.Typer(no_args_is_help=True, help="DRAM devices, and traces for other simulators.")


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List the devices that ``dram.kind`` may name, their peak bandwidth, size, and source."""
    if json_:
        print(json.dumps({name: asdict(timing) for name, timing in DEVICES.items()}, indent=2))
        return
    table = Table("device", "channels", "GB/s", "GB", "source")
    for name, timing in DEVICES.items():
        table.add_row(name, str(timing.channels), f"{timing.peak_bytes_per_second / 1e9:.2f}",
                      f"{timing.size / 2**30:.3g}", timing.source)
    Console().print(table)


@app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="DEVICE", help=f"One of {', '.join(DEVICES)}.")],
    pattern: Annotated[str, typer.Option(help=f"One of {', '.join(dram_export.PATTERNS)}.")] = "sequential",
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(dram_export.FORMATS)}.")] = "dramsim3",
    n: Annotated[int, typer.Option("-n", min=1, help="Bursts.")] = 100_000,
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write.")] = Path("dram.trace"),
    json_: JsonOption = False,
) -> None:
    """Write a trace of reads for DRAMsim3 or Ramulator 2, and tell how long this model takes for it.

    Example:  wordline dram export ddr4-2400 --pattern strided --format ramulator2 -o strided.trace
    """
    with one_line_errors():
        timing = device(name)
        addresses = dram_export.pattern(pattern, timing, n)
        dram_export.write_trace(output, addresses, form)
        result = dram_export.expected(timing, addresses)
        if json_:
            print(json.dumps({"device": name, "pattern": pattern, "bursts": n} | asdict(result), indent=2))
            return
        c = result.counters
        print(f"{output}: {n} {pattern} reads of {timing.burst_bytes} bytes for {form}")
        print(f"{name} takes {result.clocks} clocks of {timing.tck_ps} ps, {result.share_of_peak:.2%} of the peak; "
              f"{c.hits} row hits, {c.misses} misses, {c.conflicts} conflicts, {c.commands['REF']} refreshes")
