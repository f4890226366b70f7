"""Rates of the tool chain: Verilated against Amaranth's simulator, Verilog generation, compilation.

    python benchmarks/rates.py            # or: make bench

Every line states its baseline from the same run. Expect ten minutes: two designs are compiled with Verilator.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from amaranth.sim import Simulator

from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.rtl import verilog
from wordline.rtl.config import Config, load_config
from wordline.rtl.core import Accelerator
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator
from wordline.sim.rtl import RtlMachine, build

WIDE = ["array.cols=32", "array.lanes=32", "array.rows=1", "bus.data_bits=256"]


def amaranth_rate(config: Config, cycles: int = 300) -> float:
    """Cycles per second of Amaranth's own simulator on the same accelerator, idle but clocked."""
    simulator = Simulator(Accelerator(config, inline=True))
    simulator.add_clock(1e-6)

    async def bench(ctx):
        await ctx.tick().repeat(cycles)

    simulator.add_testbench(bench)
    start = time.time()
    simulator.run()
    return cycles / (time.time() - start)


def measure(config: Config, tokens: int) -> dict[str, float]:
    model = load_model("austen")
    start = time.time()
    verilog.emit(config)
    generation = time.time() - start
    start = time.time()
    program = compile_model(model, config)
    compiling = time.time() - start
    start = time.time()
    build(config, say=print)
    verilator = time.time() - start
    generator = Generator(model, program, model.tokenizer.encode("It was a truth").ids, tokens)
    start = time.time()
    rtl = generator.rtl(RtlMachine(config), lambda tokens, cycles: None)
    seconds = time.time() - start
    assert rtl.result is not None
    start = time.time()
    functional = generator.functional(FunctionalMachine(config), lambda tokens: None)
    numpy_seconds = time.time() - start
    assert np.array_equal(rtl.logits.view(np.uint32), functional.logits.view(np.uint32))
    rate, slow = rtl.result.cycles / seconds, amaranth_rate(config)
    return {"lanes": config.array.rows * config.array.cols * config.array.lanes, "verilog_seconds": generation,
            "compile_model_seconds": compiling, "verilator_build_seconds": verilator,
            "cycles_per_position": rtl.result.cycles / (len(rtl.tokens) - 1), "verilated_cycles_per_second": rate,
            "amaranth_cycles_per_second": slow, "verilated_over_amaranth": rate / slow,
            "functional_seconds_over_rtl": numpy_seconds / seconds}


def main() -> None:
    small = load_config("ulx3s")
    wide = load_config("ulx3s", WIDE)
    # Attention needs head_dim to be a multiple of columns and lanes: 32 is.
    wide = replace(wide, name="ulx3s with 1024 lanes")
    results = {config.name: measure(config, 4) for config in (small, wide)}
    for name, values in results.items():
        print(f"\n{name}")
        for key, value in values.items():
            print(f"  {key:32} {value:14,.3f}")
    Path("results").mkdir(exist_ok=True)
    Path("results/rates.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
