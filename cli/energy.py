"""``wordline energy``: what a generated token costs."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import ConfigArgument, JsonOption, SetOption, console, one_line_errors, say
from wordline.compiler.shapes import load_shape
from wordline.rtl.config import load_config
from wordline.sim.energy import ONCE, TAGS, Report, decode_step, load_table, report
from wordline.sim.energy_plot import plot, scaled

#: Rows of the table of events; the JSON has all of them.
SHOWN = 16


def energy(
    config: ConfigArgument,
    model: Annotated[str, typer.Argument(help="A model folder, 'austen', or a shape such as 'llama-2-7b'.")],
    context: Annotated[int, typer.Option(help="Tokens the step attends to; 0: the model's longest.")] = 0,
    table: Annotated[Path | None, typer.Option(
        help="TOML file of energies, laid over the constants that ship: characterised gates, say.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder: energy.json, energy.svg.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Energy of one decode step: by unit, by part of a layer, by event; every figure with its source.

    Counts come from the cycle model, which equals the RTL; energies per event from published constants.

    Examples:

      wordline energy kv260 llama-2-7b --context 1024

      wordline energy bitmod austen --set dram.kind=lpddr4-3200 -o results/energy
    """
    with one_line_errors():
        cfg, prices = load_config(config, set_ or []), load_table(table or "")
        say(f"two runs of {model} on {cfg.name}")
        result = report(decode_step(load_shape(model), cfg, context), prices)
        tree = {"command": ["wordline", *sys.argv[1:]], "configuration": asdict(cfg)} | result.to_dict()
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / "energy.json").write_text(json.dumps(tree, indent=2) + "\n")
            plot(result, output / "energy.svg")
            console.print(f"{output / 'energy.json'}, {output / 'energy.svg'}")
        if json_:
            print(json.dumps(tree, indent=2))
        else:
            _print(result)


def _print(result: Report) -> None:
    out = Console(highlight=False)
    size, unit = scaled(result.pj)
    out.print(f"{result.model} on {result.config}, context {result.context}, {result.table}")
    out.print(f"[bold]{result.pj / size:.4g} {unit}[/bold] per token, {result.ns / 1e6:.4g} ms, "
              f"{result.watts:.3g} W on average; a layer {result.layer_pj / size:.3g} {unit} ({result.layers} alike)")
    for key in ("unit", "part"):
        out.print(_sums(result, key, size, unit))
    sources: list[str] = []
    out.print(_events(result, sources))
    for line in [f"[{i}] {source}" for i, source in enumerate(sources, 1)] + result.notes:
        out.print(line, markup=False)


def _sums(result: Report, key: str, size: float, unit: str) -> Table:
    """By unit, or by part of the model, with how much of each is from which source."""
    tags = [tag for tag in TAGS if tag in result.by("tag")]
    table = Table(key, unit, "%", *([f"{unit} a layer"] if key == "part" else []), *(f"{tag} {unit}" for tag in tags))
    split = result.by(key, "tag")
    for name, pj in result.by(key).items():
        layer = [] if key != "part" else ["" if name in ONCE else f"{pj / result.layers / size:.4g}"]
        table.add_row(name, f"{pj / size:.4g}", f"{100 * pj / result.pj:.1f}", *layer,
                      *(f"{split.get((name, tag), 0.0) / size:.4g}" for tag in tags))
    return table


def _events(result: Report, sources: list[str]) -> Table:
    """DRAM's commands, then the events that take most, whatever part they are in; their sources are added to a list."""
    size, unit = scaled(result.pj)
    table = Table("unit", "event", "count", "pJ each", unit, "energy from")
    counts: dict[tuple[str, str], float] = {}
    info = {}
    for row in result.rows:
        key = row.unit, row.event
        counts[key] = counts.get(key, 0.0) + row.count
        info[key] = row
    ranked = sorted(counts, key=lambda key: (key[0] != "DRAM", -counts[key] * info[key].pj_each))
    for key in ranked[:SHOWN]:
        row = info[key]
        sources += [source for source in row.sources if source not in sources]
        numbers = ", ".join(str(1 + sources.index(source)) for source in row.sources)
        table.add_row(*key, f"{counts[key]:.4g}", f"{row.pj_each:.4g}", f"{counts[key] * row.pj_each / size:.4g}",
                      f"{row.tag} {numbers}")
    return table
