"""``wordline pe verify``: is every processing element the integer product, at the rate that it declares?"""

import json
from typing import Annotated

import typer

from wordline.cli.common import JsonOption, console, one_line_errors, say
from wordline.pe.family import FAMILIES, family
from wordline.sim import pe_verify
from wordline.sim.pe_verify import HOW, Report


def verify(
    families: Annotated[list[str] | None, typer.Argument(
        help=f"{', '.join(FAMILIES)}; with options of their own such as lut:k=5.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every family.")] = False,
    act_bits: Annotated[int, typer.Option(help="Bits of an activation: 4, 8 or 16.")] = 8,
    groups: Annotated[int, typer.Option(min=10, help="Random groups of each kind and pattern of stalls.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the random groups.")] = 1,
    formal: Annotated[bool, typer.Option(
        "--formal", help="Also prove by SAT what it can: seconds a datatype, more for wide ones.")] = False,
    json_: JsonOption = False,
) -> None:
    """Verify processing elements, Verilated: every lane on every operand, arrays on random groups under stalls.

    Prints for each family and kind of weight the cases run, the cycles declared and measured, and how it was verified;
    ends with 1 if anything differs. A family's columns are compiled once (seconds), then kept in the cache.

    Examples:

      wordline pe verify --all

      wordline pe verify lut bit_plane:pairs=8 --act-bits 16 --json
    """
    with one_line_errors():
        if not families and not all_:
            raise ValueError(f"name a family or --all; there are {', '.join(FAMILIES)}")
        names = list(FAMILIES) if all_ else families or []
        for name in names:
            family(name)
        reports: list[Report] = []
        with console.status("") as status:
            for name in names:
                reports += pe_verify.verify(
                    name, act_bits=act_bits, formal=formal, seed=seed, groups=groups, say=say,
                    progress=lambda report: status.update(f"{report.family} {report.kind}"))
        failed = [r for r in reports if not r.passed]
        if json_:
            print(json.dumps([r.record() for r in reports], indent=2))
        else:
            _print(reports)
        for r in failed:
            faults = [f"{c.how}, {c.what}: {c.fault}" for c in r.checks if c.fault]
            if r.measured != r.declared:
                faults.append(f"declared {r.declared}, measured {r.measured}")
            console.print(f"[red]{r.family} {r.kind}:[/red] {'; '.join(faults)}")
        if failed:
            raise typer.Exit(1)


def _print(reports: list[Report]) -> None:
    wide = max(len(r.family) for r in reports) + 2
    print(f"{'':{wide}}{'':9}cycles declared = measured, of a" + f"{'cases':>17}")
    print(f"{'family':{wide}}{'kind':9}{'step':>9}{'latency':>11}{f'group of {pe_verify.GROUP}':>13}{'lanes':>10}"
          f"{'random':>20}")
    for r in reports:
        times = [f"{r.declared[key]} = {r.measured.get(key, '?')}" for key in ("interval", "latency", "group")]
        cases: dict[str, int] = {}
        for c in r.checks:
            cases[c.how] = cases.get(c.how, 0) + c.cases
        random, formal = cases.pop("random"), "  formal" * bool(cases.pop("formal", 0))
        (how, n), = cases.items()
        print(f"{r.family:{wide}}{r.kind:9}{times[0]:>9}{times[1]:>11}{times[2]:>13}{n:>10} {how:11}{random:>8}{formal}"
              + ("" if r.passed else "  FAILED"))
    for how, meaning in HOW.items():
        if any(c.how == how for r in reports for c in r.checks):
            print(f"{how}: {meaning}")
    print(f"{sum(r.passed for r in reports)} of {len(reports)} pairs of family and kind verified, "
          f"{sum(c.cases for r in reports for c in r.checks)} cases")
