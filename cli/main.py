"""Entry point of the ``wordline`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from wordline.cli import dram, fpga, models, pe_area, pe_verify, tools, verify
from wordline.cli.doctor import doctor
from wordline.cli.energy import energy
from wordline.cli.evaluate import evaluate
from wordline.cli.run import demo, run
from wordline.cli.time import time

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Design accelerators for LLM inference and prove what they do, bit by bit.",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"wordline {version('wordline')}")
        raise typer.Exit()


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(run)
app.command()(demo)
app.command("eval")(evaluate)
app.command()(time)
app.command("compile")(tools.compile_)
app.command()(tools.disasm)
app.command()(tools.gen)
app.command()(tools.synth)
app.command()(energy)
tools.pe.command("area")(pe_area.area)
tools.pe.command("verify")(pe_verify.verify)
app.add_typer(tools.pe, name="pe")
app.add_typer(verify.app, name="verify")
app.add_typer(dram.app, name="dram")
app.add_typer(models.app, name="models")
app.add_typer(fpga.app, name="fpga")
app.command()(doctor)
