"""What the commands share: options, errors in one line, progress."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from wordline.compiler.asm import AssemblyError
from wordline.compiler.model import ModelError
from wordline.compiler.program import ProgramError
from wordline.compiler.weights import CompileError
from wordline.rtl.config import ConfigError
from wordline.sim.cycles import CyclesError
from wordline.sim.functional import FunctionalError
from wordline.sim.rtl import RtlError
from wordline.sim.toolchain import MissingTool, ToolFailed

#: Progress and remarks go to the error stream, so that the output can be piped.
console = Console(stderr=True, highlight=False)

_EXPECTED = (AssemblyError, CompileError, ConfigError, CyclesError, FunctionalError, ModelError, ProgramError, RtlError,
             MissingTool, ToolFailed, OSError, ValueError)

ConfigArgument = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped configuration.")]
ModelArgument = Annotated[str, typer.Argument(
    help="A model folder, a .gguf file, 'austen' or 'austen_ternary' (embedded), or a name of `wordline models list`.")]
SetOption = Annotated[list[str] | None, typer.Option(
    "--set", metavar="SECTION.FIELD=VALUE", help="Change one field of the configuration; repeatable.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can cause ends in one line and exit code 1; Ctrl-C in exit code 130."""
    try:
        yield
    except _EXPECTED as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", markup=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        console.print("interrupted")
        raise typer.Exit(130) from None


def say(message: str) -> None:
    console.print(f"[dim]{message} ...[/dim]")


class TextStream:
    """Prints text as tokens arrive, each part once."""

    def __init__(self, tokenizer, *, quiet: bool):
        self.tokenizer, self.quiet, self.shown = tokenizer, quiet, ""

    def show(self, tokens) -> None:
        text = self.tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True)
        # The bytes of a character may be spread over tokens.
        text = text.rstrip("�")
        if not self.quiet and text.startswith(self.shown):
            sys.stdout.write(text[len(self.shown) :])
            sys.stdout.flush()
            self.shown = text

    def end(self) -> None:
        if not self.quiet:
            sys.stdout.write("\n")
            sys.stdout.flush()
