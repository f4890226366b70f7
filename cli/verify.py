"""``wordline verify``: proofs that a user can run."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from wordline.cli.common import JsonOption, console, one_line_errors, say
from wordline.sim import verify

app = typer.Typer(no_args_is_help=True, help="Prove that the models are the hardware.")


@app.callback()
def _verify() -> None:
    """Prove that the models are the hardware."""


@app.command()
def cycles(
    n: Annotated[int, typer.Option("--n", min=1, help="Random programs, on all hardware in turn.")] = 200,
    seed: Annotated[int, typer.Option(help="Number of the first program.")] = 0,
    hardware: Annotated[list[str] | None, typer.Option(
        help=f"One of {', '.join(verify.HARDWARE)}, or random-N; repeatable. Default: all that have a name.")] = None,
    configs: Annotated[int, typer.Option(min=0, help="Random hardware besides (each is compiled: half a minute).")] = 0,
    case: Annotated[Path | None, typer.Option(help="Run only the case of this file.")] = None,
    folder: Annotated[Path, typer.Option(help="Where failing cases go.")] = Path("results/verify"),
    json_: JsonOption = False,
) -> None:
    """Compare the cycle model with the Verilated RTL: every start and end of every instruction, every counter.

    Random programs, and random transformers, run on random memories (fixed latency or a DRAM, with or without
    stalls). A case that differs is made small and saved.

    Examples:

      wordline verify cycles --n 200 --seed 1000 --configs 2

      wordline verify cycles --case results/verify/mac-8x8-bus64-17.json
    """
    with one_line_errors():
        machines = verify.Machines(say)
        if case is not None:
            cases = [verify.Case.load(case)]
        else:
            names = [*(hardware or verify.HARDWARE), *(f"random-{seed + i}" for i in range(configs))]
            cases = [verify.random_case(names[i % len(names)], seed + i // len(names)) for i in range(n)]
        failed = []
        with Progress(console=console, transient=True) as progress:
            for one in progress.track(cases, description="programs"):
                difference = verify.difference(one, machines)
                if not difference:
                    continue
                console.print(f"{one.hardware}, seed {one.seed}: {difference}")
                file = folder / f"{one.hardware}-{one.seed}.json"
                if case is None:
                    say("making it small")
                    one = verify.shrink(one, lambda smaller: bool(verify.difference(smaller, machines)))
                    one.save(file)
                failed.append({"hardware": one.hardware, "seed": one.seed, "difference": difference,
                               "case": str(case or file)})
                console.print(f"{len(one.blocks)} blocks left: wordline verify cycles --case {case or file}")
        if json_:
            print(json.dumps({"programs": len(cases), "differences": len(failed), "failed": failed}, indent=2))
        else:
            print(f"{len(cases)} programs: {len(failed)} differences")
        if failed:
            raise typer.Exit(1)
