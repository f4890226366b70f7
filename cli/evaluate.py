"""``wordline eval``: what datatypes cost in accuracy, on real text, with intervals."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from wordline.cli.common import JsonOption, ModelArgument, console, one_line_errors
from wordline.compiler.model import ModelError, load_model
from wordline.compiler.quantizers import parse
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.sim.accuracy import Evaluation, Result, Setting, Store
from wordline.sim.calibrate import TOKENS, Prepare, calibration_windows
from wordline.sim.evaluate import LEVEL, Interval, difference
from wordline.sim.mixed import plan, sensitivities
from wordline.sim.texts import DOMAINS, read_text

_SENSITIVITY = 128  # tokens on which the sensitivity of matrices is measured
_SHORT = {"fp4": "bitmod_fp4", "fp3": "bitmod_fp3"}


def _types(text: str, field: str) -> list[str]:
    """Weight types of a comma-separated list; FP4 and FP3 are BitMoD's."""
    names = [_SHORT.get(name.strip().lower(), name.strip().lower()) for name in text.split(",") if name.strip()]
    for name in names:
        if name not in WEIGHT_TYPES:
            raise ModelError(f"{field} {name!r}: there are {', '.join([*_SHORT, *WEIGHT_TYPES])}")
    return names


def _numbers(text: str, field: str, allowed: tuple[int, ...]) -> list[int]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    for part in found:
        if part not in map(str, allowed):
            raise ModelError(f"{field} {part!r}: only {', '.join(map(str, allowed))}")
    return [int(part) for part in found]


def settings(dtypes: list[str], acts: list[int], kv: list[int], quantizers: list[tuple[str, ...]], *, head: str,
             group_size: int) -> list[Setting]:
    """Every axis from one corner: all weight types with the first of everything else; then the other activations and
    caches with the first weight type; then the quantisers with all weight types."""
    found = [Setting(d, acts[0], kv[0], group_size, head or d) for d in dtypes]
    first = found[0]
    found += [Setting(first.weights, a, kv[0], group_size, first.head) for a in acts[1:]]
    found += [Setting(first.weights, acts[0], k, group_size, first.head) for k in kv[1:]]
    found += [Setting(d, acts[0], kv[0], group_size, head or d, q) for q in quantizers for d in dtypes]
    return list(dict.fromkeys(found))


def _cell(i: Interval, digits: int) -> str:
    form = f".{digits}f" if i.high < 100 else ".3g"
    return f"{i.value:{form}} ({i.low:{form}}-{i.high:{form}})"


def rows(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the table."""
    names = [name for name in results[0].tokens if name != "all"]
    heads = ["weights", "A", "KV", "bits/weight", "MB/token", *(f"perplexity x, {name}" for name in names),
             "KL divergence", "top-1"]
    cells = []
    for r in results:
        s, c = r.setting, r.cost
        weights = (" ".join(s.mixed) or s.weights) + "".join(f" +{q}" for q in s.quantizers)
        if s.scale_bits != 8:
            weights += f", {s.scale_bits}-bit scales"
        cells.append([weights, str(s.acts), str(s.kv), f"{c.body_bits:.3f}", f"{c.bytes_per_token / 1e6:.1f}",
                      *(_cell(r.summaries[name].relative, 3) for name in names),
                      _cell(r.summaries["all"].kl, 4), _cell(r.summaries["all"].top1, 3)])
    return heads, cells


def verdicts(results: list[Result]) -> list[str]:
    """What each quantiser changes against plain rounding to the same types, and each weight type against the one
    before it: by the KL divergences of the same tokens."""
    plain = {(r.setting.weights, r.setting.acts, r.setting.kv): r for r in results
             if not r.setting.quantizers and not r.setting.mixed and r.setting.scale_bits == 8}
    found = []
    for r in results:
        other = plain.get((r.setting.weights, r.setting.acts, r.setting.kv))
        if r.setting.quantizers and other is not None:
            d = difference(r.tokens["all"], other.tokens["all"])
            word = "better" if d.high < 0 else "worse" if d.low > 0 else "no difference"
            found.append(f"{r.setting.name} against rounding: KL divergence {d.value:+.4f} "
                         f"({d.low:+.4f} to {d.high:+.4f}): {word}")
    return found


def _json(r: Result) -> dict:
    return asdict(r.setting) | asdict(r.cost) | {"texts": {name: asdict(s) for name, s in r.summaries.items()}}


def evaluate(
    model: ModelArgument,
    dtypes: Annotated[str, typer.Option(help="Weight types, the first of which the other axes are measured with.")] =
        "FP4,FP3,int8,int6,int4,int4_asym,int3,int3_asym",
    acts: Annotated[str, typer.Option(help="Bits of activations: 16, 8, 4.")] = "8",
    kv: Annotated[str, typer.Option(help="Bits of keys and values: 16, 8, 4, 2; the hardware has 8, 4 and 2.")] = "8",
    quantizer: Annotated[list[str] | None, typer.Option(
        help="Also with these on top of rounding, such as awq,gptq; repeatable.")] = None,
    budget: Annotated[float, typer.Option(
        min=0, help="Also with a mixture of the weight types, by the sensitivity of a layer's matrices, that takes at "
                    "most so many bits per weight; 0: none.")] = 0,
    head: Annotated[str, typer.Option(help="Weight type of the output head; empty: as the layers.")] = "int8",
    group_size: Annotated[int, typer.Option(help="Weights that share a scale.")] = 64,
    text: Annotated[list[Path] | None, typer.Option(
        help="A text to evaluate on instead of the two domains; its first third is for calibration.")] = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of every text, in whole windows.")] = 512,
    window: Annotated[int, typer.Option(min=2, help="Tokens that the model sees at once.")] = 256,
    out: Annotated[Path | None, typer.Option(
        help="Where finished measurements are kept. A second run goes on from there.")] = None,
    json_: JsonOption = False,
) -> None:
    """Perplexity, KL divergence and top-1 agreement of quantised models against the source model.

    Measured is what the accelerator computes, bit for bit. The source model is the file's, in double precision: a file
    of 4 bits is compared with its own 4 bits. Texts: Jane Austen (held out from the embedded model) and Python's
    documentation. Intervals hold 95 %, by bootstrap. An interrupted run has lost nothing; the same command goes on.

    Examples:

      wordline eval austen --dtypes FP4,FP3,int4 --acts 16,8,4 --kv 8,4

      wordline eval austen --dtypes FP4,FP3,int8 --budget 4

      wordline eval smollm2 --dtypes int3,FP3 --quantizer awq --quantizer awq,gptq --json
    """
    with one_line_errors():
        chosen = [parse(names) for names in quantizer or []]
        wanted = settings(_types(dtypes, "--dtypes"), _numbers(acts, "--acts", (16, 8, 4)),
                          _numbers(kv, "--kv", (16, 8, 4, 2)), chosen,
                          head=_types(head, "--head")[0] if head else "", group_size=group_size)
        texts = [read_text(path) for path in text] if text else [make() for make in DOMAINS.values()]
        llm = load_model(model)
        store = Store(out or Path("results") / "eval" / f"{Path(model).stem}.jsonl")
        results = []
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                      console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)
            prepare = Prepare(texts, TOKENS, lambda what: bar.update(task, description=what))
            if budget:
                ids = calibration_windows(llm, texts[:1], _SENSITIVITY, _SENSITIVITY)[0]
                found = sensitivities(llm, [s.weights for s in wanted[: len(_types(dtypes, ""))]], group_size, ids,
                                      lambda what: bar.update(task, description=what))
                chosen_types = plan(llm, found, budget, group_size)
                wanted.append(replace(wanted[0], head=head or wanted[0].weights, mixed=chosen_types.mixed()))
            evaluation = Evaluation(llm, texts, tokens=tokens, window=window, store=store, prepare=prepare)
            try:
                for result in evaluation.run(wanted, lambda what, done, total: bar.update(
                        task, description=what, completed=done, total=total)):
                    results.append(result)
            except KeyboardInterrupt:
                console.print(f"interrupted: what is finished is in {store.path}; the same command goes on from there")
                raise
        source = {name: s.source_perplexity for name, s in results[0].summaries.items()}
        if json_:
            print(json.dumps({"model": llm.config.name, "precision": llm.precision, "window": window, "level": LEVEL,
                              "results": [_json(r) for r in results], "verdicts": verdicts(results)}, indent=2))
            return
        heads, cells = rows(results)
        table = Table(*heads)
        for row in cells:
            table.add_row(*row)
        out_console = type(console)(highlight=False, width=max(console.width, 150))
        out_console.print(table)
        print(f"{llm.config.name}, source {llm.precision}: perplexity " + ", ".join(
            f"{_cell(i, 2)} on {name}" for name, i in source.items() if name != "all")
            + f"; {len(results[0].tokens['all'])} tokens in windows of {window}; intervals of 95 %")
        for line in verdicts(results):
            print(line)
