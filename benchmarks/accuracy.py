"""Makes docs/accuracy.md: what datatypes and quantisers cost two real models, every axis, with intervals.

    python benchmarks/accuracy.py             # measures what is missing, hours on two cores, then writes the page
    python benchmarks/accuracy.py --finished  # writes the page from what has been measured

Measurements are kept in results/eval, as by ``wordline eval``; an interrupted run goes on where it was.
"""

import argparse
import datetime
import sys
from pathlib import Path

from wordline.cli.evaluate import rows, settings, verdicts
from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.model import load_model
from wordline.sim.accuracy import Evaluation, Result, Setting, Store
from wordline.sim.calibrate import TOKENS, Prepare
from wordline.sim.evaluate import difference
from wordline.sim.texts import DOMAINS

#: The first is the corner from which activations and caches are varied.
DTYPES = ["bitmod_fp4", "bitmod_fp3", "int8", "int6", "int5", "int4", "int4_asym", "mxfp4", "nvfp4", "int3",
          "int3_asym", "pow2x3", "int2", "int2_asym", "ternary", "int1"]
ACTS, CACHES = [8, 16, 4], [8, 16, 4, 2]
#: Weight types and the quantisers measured with them, each alone and together.
QUANTIZED = {"int3_asym": [("awq", "clip", "gptq"), ("gptq",), ("clip",), ("awq",), ("smooth",)],
             "bitmod_fp3": [("awq", "clip", "gptq"), ("gptq",)]}
SMOOTHED = Setting("bitmod_fp4", acts=4, quantizers=("smooth",))
#: Group scales of 16 bits: what 8 bits cost.
WIDE_SCALES = [Setting("bitmod_fp4", scale_bits=16), Setting("bitmod_fp3", scale_bits=16)]
#: Activations and caches together, beyond the axes.
CORNERS = [Setting("bitmod_fp4", acts=a, kv=k) for a in (16, 4) for k in (16, 4, 2)]
PER_TEXT, WINDOW = 256, 256
#: Weight types whose rounding takes minutes: last.
SLOW = ("pow2x3",)

#: Pairs that the papers order, by KL divergence, and what they say.
ORDER = [
    (Setting("bitmod_fp3"), Setting("int3_asym"), "BitMoD FP3 is better than asymmetric INT3 (BitMoD, Table VI)"),
    (Setting("int3_asym"), Setting("int3"), "asymmetric INT3 is better than symmetric (BitMoD, Table VI)"),
    (Setting("bitmod_fp4"), Setting("int4_asym"), "BitMoD FP4 is better than asymmetric INT4 (BitMoD, Table VI)"),
    (Setting("bitmod_fp4"), Setting("mxfp4"), "special values and 8-bit scales against powers of two"),
    (Setting("bitmod_fp4", acts=16), Setting("bitmod_fp4"), "16-bit against 8-bit activations"),
    (Setting("bitmod_fp4"), Setting("bitmod_fp4", acts=4), "8-bit against 4-bit activations"),
    (Setting("bitmod_fp4", kv=16), Setting("bitmod_fp4"), "16-bit against 8-bit keys and values"),
    (Setting("bitmod_fp4"), Setting("bitmod_fp4", kv=4), "8-bit keys and values against 4-bit with keys per channel"),
    (Setting("bitmod_fp4", kv=4), Setting("bitmod_fp4", kv=2), "4-bit against 2-bit keys and values"),
    (Setting("bitmod_fp4", scale_bits=16), Setting("bitmod_fp4"), "16-bit against 8-bit group scales (BitMoD, Tab. V)"),
    (Setting("bitmod_fp3", scale_bits=16), Setting("bitmod_fp3"), "16-bit against 8-bit group scales, FP3"),
]


def wanted() -> list[Setting]:
    """Every setting of a model's table, the most telling first."""
    every = [*settings(DTYPES, ACTS, CACHES, [], head="int8", group_size=64), *WIDE_SCALES,
             *(Setting(d, quantizers=q) for d, several in QUANTIZED.items() for q in several), SMOOTHED, *CORNERS]
    return sorted(every, key=lambda s: s.weights in SLOW)


def order(results: list[Result]) -> list[str]:
    by_setting = {r.setting: r for r in results}
    lines = []
    for better, worse, claim in ORDER:
        if better in by_setting and worse in by_setting:
            d = difference(by_setting[better].tokens["all"], by_setting[worse].tokens["all"])
            word = "yes" if d.high < 0 else "the other way round" if d.low > 0 else "no difference"
            lines.append(f"| {claim} | {better.name} less {worse.name} | {d.value:+.4f} | "
                         f"{d.low:+.4f} to {d.high:+.4f} | {word} |")
    return lines


def section(name: str, evaluation: Evaluation, results: list[Result], missing: list[Setting]) -> str:
    known, model = CATALOGUE[name], evaluation.model
    heads, cells = rows(results)
    source = {text: s.source_perplexity for text, s in results[0].summaries.items()}
    lines = [f"## {known.title}", "",
             f"Source: {known.precision} (`{known.file}`, SHA-256 `{known.sha256[:16]}...`, {model.precision}).",
             "Its perplexity, which is what the quotients refer to: " + ", ".join(
                 f"{i.value:.2f} ({i.low:.2f} to {i.high:.2f}) on {text}" for text, i in source.items()
                 if text != "all")
             + f". {len(results[0].tokens['all'])} tokens predicted, in windows of {WINDOW}.", "",
             "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    lines += ["", "| what the papers say | difference of KL divergence | | 95 % | found |", "|---|---|---|---|---|",
              *order(results)]
    if found := verdicts(results):
        lines += ["", *(f"* {line}" for line in found)]
    if missing:
        lines += ["", "Not measured yet: " + ", ".join(s.name for s in missing) + "."]
    return "\n".join(lines) + "\n"


def told(what: str, done: int, total: int) -> None:
    print(f"{what}, {done} of {total}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", action="store_true", help="measure nothing")
    parser.add_argument("--models", nargs="+", choices=CATALOGUE, default=list(CATALOGUE))
    parser.add_argument("--out", type=Path, default=Path("docs/accuracy.md"))
    args = parser.parse_args()
    texts = [make() for make in DOMAINS.values()]
    sections = []
    for name in args.models:
        store = Store(Path("results/eval") / f"{name}.jsonl")
        prepare = Prepare(texts, TOKENS, lambda what: print(f"  {what}", file=sys.stderr))
        evaluation = Evaluation(load_model(name), texts, tokens=PER_TEXT, window=WINDOW, store=store, prepare=prepare)
        if not args.finished:
            for result in evaluation.run(wanted(), told):
                print(f"{name}: {result.setting.name}: {result.summaries['all'].kl.value:.4f}")
        done = [s for s in wanted() if evaluation.finished(s)]
        results = list(evaluation.run(done, lambda what, done, total: None))
        if results:
            sections.append(section(name, evaluation, results, [s for s in wanted() if s not in done]))
    head = (Path(__file__).parent / "accuracy_head.md").read_text()
    args.out.write_text(head.format(date=datetime.date.today().isoformat()) + "\n" + "\n".join(sections))


if __name__ == "__main__":
    main()
