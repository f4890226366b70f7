"""What the commands share: options, errors in one line, progress."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Generic, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status

from wordline.compiler.asm import AssemblyError
from wordline.compiler.model import ModelError
from wordline.compiler.program import ProgramError
from wordline.compiler.weights import CompileError
from wordline.rtl.config import ConfigError
from wordline.sim.cycles import CyclesError
from wordline.sim.functional import FunctionalError
from wordline.sim.rtl import RtlError
from wordline.sim.toolchain import MissingTool, ToolFailed

T = TypeVar("T")

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
    """Prints text as tokens arrive, each part once. On a terminal, a run that also tells how far it is has the text so
    far in a line that is redrawn, and prints it when it ends."""

    def __init__(self, tokenizer, *, quiet: bool):
        self.tokenizer, self.quiet, self.shown = tokenizer, quiet, ""
        self._status: Status | None = None

    def show(self, tokens, about: str = "") -> None:
        text = self.tokenizer.decode([int(t) for t in tokens], skip_special_tokens=True)
        # The bytes of a character may be spread over tokens.
        text = text.rstrip("�")
        if about and console.is_terminal:
            tail = escape(" ".join(text.split())[-max(console.width - len(about) - 10, 10) :])
            if self._status is None:
                self._status = console.status("")
                self._status.start()
            self._status.update(f"{tail} [dim]{about}[/dim]")
        elif not self.quiet and text.startswith(self.shown):
            sys.stdout.write(text[len(self.shown) :])
            sys.stdout.flush()
            self.shown = text

    def end(self, tokens=None) -> None:
        """The end of the line; with `tokens`, of which what has not been printed is."""
        self.close()
        if tokens is not None:
            self.show(tokens)
        if not self.quiet:
            sys.stdout.write("\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Takes the redrawn line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


class Beside(threading.Thread, Generic[T]):
    """Computes something while the caller waits for something else.

    Parameters
    ----------
    function : callable
        Gets another, which it is to call now and then: that ends it once nobody wants the result any more.
    """

    def __init__(self, function: Callable[[Callable[[], None]], T]):
        super().__init__(daemon=True)
        self._function, self._cancelled = function, threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result.append(self._function(self._check))
        except BaseException as error:
            self._error = error

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise KeyboardInterrupt

    def cancel(self) -> None:
        self._cancelled.set()

    def result(self) -> T:
        """What it returned, or raises what it raised."""
        while self.is_alive():
            self.join(0.1)  # so that Ctrl-C is seen
        if self._error is not None:
            raise self._error
        return self._result[0]
