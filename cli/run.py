"""``wordline run`` and ``wordline demo``: text out of the accelerator, compared bit for bit."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from wordline.cli.common import (
    Beside,
    ConfigArgument,
    JsonOption,
    ModelArgument,
    SetOption,
    TextStream,
    console,
    one_line_errors,
    say,
)
from wordline.compiler.model import Model, load_model
from wordline.compiler.quantizers import parse
from wordline.compiler.transformer import compile_model
from wordline.rtl import verilog
from wordline.rtl.config import Config, load_config
from wordline.sim.calibrate import TOKENS, Prepare
from wordline.sim.evaluate import held_out_accuracy
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import NO_END, Generation, Generator, compare
from wordline.sim.rtl import RtlMachine
from wordline.sim.texts import DOMAINS

Backend = Literal["functional", "rtl"]


def _functional(generator: Generator, config: Config, stream: TextStream) -> tuple[Generation, float]:
    start = time.time()
    result = generator.functional(FunctionalMachine(config), stream.show)
    stream.end()
    return result, time.time() - start


def _functional_beside(generator: Generator, config: Config) -> Beside[tuple[Generation, float]]:
    """`_functional`, silent, while the RTL runs, which leaves the interpreter alone most of the time."""
    def run(check: Callable[[], None]) -> tuple[Generation, float]:
        start = time.time()
        return generator.functional(FunctionalMachine(config), lambda tokens: check()), time.time() - start

    return Beside(run)


def _rtl(generator: Generator, config: Config, stream: TextStream, *, stalls: float, seed: int,
         wave: tuple[Path, int, int] | None) -> tuple[Generation, float]:
    machine = RtlMachine(config, waveform=wave is not None, say=say)
    start, total = time.time(), len(generator.prompt) + generator.count

    def show(tokens: np.ndarray, cycles: int) -> None:
        seconds = time.time() - start
        stream.show(tokens, f"token {len(tokens)} of {total}, {cycles / 1e6:.1f} million cycles, "
                            f"{cycles / max(seconds, 1e-3) / 1e3:.0f} k/s, {seconds:.0f} s")

    try:
        result = generator.rtl(machine, show, stalls=stalls, seed=seed, wave=wave)
    finally:
        stream.close()
    seconds = time.time() - start
    stream.end(result.tokens)
    return result, seconds


def _accuracy_line(model: Model, config: Config, source: Model) -> tuple[str, dict]:
    say("measuring accuracy on the held-out text")
    a = held_out_accuracy(model, config.types, source=source)
    t = config.types
    line = (f"held-out perplexity per token ({a.tokens} tokens): float {a.float_perplexity:.3f}, "
            f"{t.weights}/{t.head_weights} W, A{t.acts}, KV {t.kv}: {a.hardware_perplexity:.3f} "
            f"(relative {a.relative:.4f}, top-1 agreement {a.top1_agreement:.3f})")
    return line, asdict(a) | {"relative": a.relative}


def run(
    config: ConfigArgument,
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to continue.")] = "It was a truth",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 32,
    backend: Annotated[Backend, typer.Option(help="functional: numpy. rtl: Verilator.")] = "functional",
    compare_backends: Annotated[bool, typer.Option(
        "--compare", help="Run both backends and count differing bits of tokens and logits.")] = False,
    set_: SetOption = None,
    context: Annotated[int, typer.Option(
        help="Longest sequence; 0: what this run needs, at least 256, at most what the model was trained for.")] = 0,
    quantizer: Annotated[str, typer.Option(
        help="On top of rounding: smooth, awq, clip, gptq, or several, such as awq,gptq.")] = "",
    stop: Annotated[bool, typer.Option(help="End at the model's end token.")] = False,
    stalls: Annotated[float, typer.Option(min=0, max=0.95, help="Probability that a bus channel hesitates.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the stalls.")] = 0,
    wave: Annotated[Path | None, typer.Option(help="Write a VCD waveform here (rtl).")] = None,
    wave_cycles: Annotated[str, typer.Option(metavar="FIRST:LAST", help="Cycles in it.")] = "0:2000",
    accuracy: Annotated[bool, typer.Option(help="Measure perplexity on the model's held-out text.")] = True,
    json_: JsonOption = False,
) -> None:
    """Generate text on the accelerator.

    Examples:

      wordline run bitmod austen --prompt "It was a truth" --tokens 64

      wordline run bitmod austen --backend rtl --compare --set types.weights=int8 --set types.acts=16

      wordline run bitmod smollm2 --prompt "The capital of France is" --tokens 16 --backend rtl --compare
    """
    with one_line_errors():
        cfg = load_config(config, set_ or [])
        llm = load_model(model)
        ids = llm.tokenizer.encode(prompt).ids
        source = llm
        if quantizer:
            say(f"calibrating {llm.config.name} for {quantizer}")
            prepare = Prepare([make() for make in DOMAINS.values()], TOKENS, lambda what: None)
            llm = prepare(llm, parse(quantizer), cfg.types)
        say(f"compiling {llm.config.name}")
        start = time.time()
        program = compile_model(llm, cfg, context=context or min(llm.config.context, max(len(ids) + tokens, 256)))
        compile_seconds = time.time() - start
        generator = Generator(llm, program, ids, tokens, stop=llm.config.eos if stop else NO_END)
        window = None
        if wave is not None:
            first, _, last = wave_cycles.partition(":")
            window = (wave, int(first), int(last))
        report: dict = {"config": cfg.name, "hardware": cfg.hardware_hash(), "model": llm.config.name,
                        "types": asdict(cfg.types), "compile_seconds": round(compile_seconds, 3)}
        results: list[Generation] = []
        other: Beside[tuple[Generation, float]] | None = None
        if backend == "rtl" or compare_backends:
            if compare_backends:
                other = _functional_beside(generator, cfg)
            try:
                generation, seconds = _rtl(generator, cfg, TextStream(llm.tokenizer, quiet=json_), stalls=stalls,
                                           seed=seed, wave=window)
            except BaseException:
                if other is not None:
                    other.cancel()
                raise
            results.append(generation)
            assert generation.result is not None
            cycles, passes = generation.result.cycles, len(generation.tokens) - 1
            report |= {"cycles": cycles, "cycles_per_position": round(cycles / passes),
                       "rtl_seconds": round(seconds, 3), "rtl_seconds_per_position": round(seconds / passes, 3),
                       "rtl_cycles_per_second": round(cycles / seconds), "busy": generation.result.busy}
            console.print(f"rtl: {cycles} cycles, {cycles // passes} per position "
                          f"({cfg.clock_mhz * 1e6 / (cycles / passes):.1f} positions/s at {cfg.clock_mhz:g} MHz); "
                          f"simulated at {cycles / seconds:.0f} cycles/s, {seconds / passes:.2f} s per position")
        if backend == "functional" or compare_backends:
            if other is not None:
                with console.status("waiting for the functional simulator"):
                    generation, seconds = other.result()
            else:
                generation, seconds = _functional(generator, cfg, TextStream(llm.tokenizer, quiet=json_))
            results.append(generation)
            report["functional_seconds"] = round(seconds, 3)
        final = results[0]
        report |= {"tokens": [int(t) for t in final.tokens], "prompt_tokens": final.prompt,
                   "text": llm.tokenizer.decode([int(t) for t in final.tokens])}
        if accuracy and (llm.folder / "heldout.txt").is_file():
            line, report["accuracy"] = _accuracy_line(llm, cfg, source)
            console.print(line)
        differing = None
        if compare_backends:
            difference = compare(*results)
            differing = report["differing_bits"] = difference.bits
            if difference.bits:
                report["first_difference"] = difference.where
        if json_:
            print(json.dumps(report, indent=2))
        if differing is not None:
            # The last line, whatever else was printed.
            out = console.print if json_ else print
            if differing:
                out(f"first difference: {report['first_difference']}")
            out(f"{differing} differing bits")
            if differing:
                raise typer.Exit(1)


def demo(
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 32,
    folder: Annotated[Path, typer.Option(help="Where Verilog and waveform go.")] = Path("results/demo"),
) -> None:
    """Generate text on the RTL of an ECP5-sized accelerator and compare it with the functional simulator."""
    with one_line_errors():
        start = time.time()
        cfg, llm = load_config("ulx3s"), load_model("austen")
        files = verilog.write(cfg, folder / "verilog")
        program = compile_model(llm, cfg)
        program.save(folder / "austen.wlp")
        prompt = "It was a truth universally"
        generator = Generator(llm, program, llm.tokenizer.encode(prompt).ids, tokens)
        wave = folder / "first-token.vcd"
        console.print(f"[bold]{cfg.name}[/bold]: {cfg.array.rows} x {cfg.array.cols} x {cfg.array.lanes} "
                      f"{cfg.array.family}, weights {cfg.types.weights}, activations INT{cfg.types.acts}, "
                      f"KV {cfg.types.kv}")
        rtl, seconds = _rtl(generator, cfg, TextStream(llm.tokenizer, quiet=False), stalls=0, seed=0,
                            wave=(wave, 0, 3000))
        assert rtl.result is not None
        functional, _ = _functional(generator, cfg, TextStream(llm.tokenizer, quiet=True))
        difference = compare(rtl, functional)
        console.print(_accuracy_line(llm, cfg, llm)[0])
        cycles = rtl.result.cycles
        positions = len(rtl.tokens) - 1
        print(f"\nThe text above came out of the Verilated RTL: {cycles} cycles, {cycles // positions} cycles per "
              f"token, simulated at {cycles / seconds:.0f} cycles/s.")
        if difference.bits:
            print(f"first difference: {difference.where}\n{difference.bits} differing bits")
            raise typer.Exit(1)
        print(f"Its {len(rtl.tokens)} tokens and all {rtl.logits.size} logits equal the functional simulator's: "
              "0 differing bits.")
        print(f"Verilog:  {', '.join(str(f) for f in files)}\nprogram:  {folder / 'austen.wlp'}\n"
              f"waveform: {wave} (cycles 0 to 3000)\n{time.time() - start:.0f} s in all")
