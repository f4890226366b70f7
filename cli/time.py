"""``wordline time``: how long a model takes on a configuration, and what holds it up."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import ConfigArgument, JsonOption, SetOption, console, one_line_errors
from wordline.compiler.shapes import SHAPES, load_shape
from wordline.rtl.config import Config, load_config
from wordline.sim.cycles import Cause
from wordline.sim.timing import Step, Timer, peak_bytes_per_cycle


def _report(step: Step, config: Config) -> dict:
    seconds = step.cycles / (config.clock_mhz * 1e6)
    return {"position": step.position, "tokens": step.tokens, "cycles": step.cycles, "seconds": seconds,
            "seconds_per_token": seconds / step.tokens, "tokens_per_second": step.tokens / seconds,
            "stream_bytes": step.stream_bytes,
            "bandwidth_utilisation": step.useful_bytes / step.cycles / peak_bytes_per_cycle(config),
            "gemm_pe_slots": step.gemm_slots, "dram": asdict(step.dram), "causes": step.causes}


def _print(step: Step, config: Config, title: str) -> None:
    r = _report(step, config)
    print(f"{title}: {step.cycles} cycles, {r['seconds'] * 1e3:.3f} ms, {r['tokens_per_second']:.3f} tokens/s at "
          f"{config.clock_mhz:g} MHz")
    print(f"  {step.useful_bytes / 1e6:.2f} MB of weights and cache: {r['bandwidth_utilisation']:.2%} of the "
          f"peak of {peak_bytes_per_cycle(config) * config.clock_mhz / 1e3:.2f} GB/s; "
          f"PE slots of the GEMMs: {step.gemm_slots:.2%}")


def _causes(step: Step) -> Table:
    """Every unit's cycles by cause, in percent of the step."""
    table = Table("% of cycles", *(unit.lower() for unit in step.causes))
    for cause in Cause:
        shares = [100 * causes[cause.name] / step.cycles for causes in step.causes.values()]
        table.add_row(cause.name.lower().replace("_", " "), *(f"{share:.2f}" if share else "" for share in shares))
    return table


def time(
    config: ConfigArgument,
    model: Annotated[str, typer.Argument(
        help=f"A folder with a config.json (weights are not needed), or one of: austen, {', '.join(SHAPES)}.")],
    context: Annotated[int, typer.Option(min=1, help="Time the decode step that sees so many tokens.")] = 1024,
    prefill: Annotated[int, typer.Option(min=0, help="A whole request: tokens of its prompt.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Sequences side by side, at most array.rows.")] = 1,
    decode: Annotated[int, typer.Option(min=0, help="A whole request: tokens generated, at least 1.")] = 1,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Time a model by its shape: cycles, tokens per second, bandwidth, and every unit's cycles by cause.

    With --prefill: the whole request, from steps simulated at four positions of each part and
    interpolated between them.

    Examples:

      wordline time kv260 llama-2-7b --context 1024

      wordline time kv260 llama-2-7b --prefill 512 --decode 128 --json

      wordline time kv260 llama-2-7b --batch 4
    """
    with one_line_errors():
        cfg, shape = load_config(config, set_ or []), load_shape(model)
        request = prefill > 0
        longest = min(shape.config.context, (prefill + decode if request else context) + 1)
        timer = Timer(shape, cfg, context=longest, batch=batch)
        head = {"config": cfg.name, "model": shape.config.name, "batch": batch, "evidence": "cycles"}
        if not request:
            with console.status("simulating"):
                step = timer.decode(min(context, longest - 1))
            if json_:
                print(json.dumps(head | {"decode": _report(step, cfg)}, indent=2))
            else:
                _print(step, cfg, f"{shape.config.name} on {cfg.name}, decode at context {step.position + 1}")
                Console().print(_causes(step))
            return
        with console.status("simulating"):
            result = timer.request(prefill, decode)
        hertz = cfg.clock_mhz * 1e6
        first, rest = result.prefill_cycles / hertz, result.decode_cycles / hertz
        if json_:
            print(json.dumps(head | {
                "prefill_tokens": prefill, "decode_tokens": decode, "prefill_seconds": first, "decode_seconds": rest,
                "simulated": [_report(step, cfg) for step in result.simulated]}, indent=2))
            return
        for step in result.simulated:
            _print(step, cfg, f"{step.tokens} token(s) from position {step.position}")
        for name, n, seconds in (("prefill", prefill, first), ("decode", decode, rest)):
            if seconds:  # the first token comes with the prompt's last step
                of = f" of {batch} sequences" if batch > 1 else ""
                print(f"{name}: {n} tokens{of} in {seconds:.3f} s, {n * batch / seconds:.2f} tokens/s (interpolated)")
