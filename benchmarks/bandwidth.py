"""How near the hardware comes to the memory wall, with every unit's cycles by cause; and what timing it costs.

    python benchmarks/bandwidth.py            # or: make bench

Figures are of the cycle model, which equals the RTL. The goals are those of issue 3; the baseline of each share is the
peak of the configuration's DRAM. Takes about two minutes.
"""

import json
import resource
import time
from dataclasses import replace
from pathlib import Path

from wordline.compiler.shapes import load_shape
from wordline.rtl.config import load_config
from wordline.sim.cycles import Cause
from wordline.sim.timing import Step, Timer, peak_bytes_per_cycle

DECODE = [("kv260", "llama-2-7b", 1024, 0.945), ("kv260_ternary", "bitnet-2b4t", 1024, 0.94),
          ("u280", "llama-2-7b", 1024, 0.90),
          ("kv260", "llama-3-8b", 1024, None), ("kv260", "tinyllama-1.1b", 1024, None)]


def budget(step: Step) -> None:
    """The stall budget: percent of the step's cycles, by unit and cause."""
    print("    " + "".join(f"{unit.lower():>10}" for unit in step.causes))
    for cause in Cause:
        shares = [100 * causes[cause.name] / step.cycles for causes in step.causes.values()]
        if any(shares):
            print("    " + "".join(f"{share:10.2f}" for share in shares) + f"  {cause.name.lower().replace('_', ' ')}")


def decode() -> list[dict]:
    results = []
    for name, model, context, goal in DECODE:
        config = load_config(name)
        timer = Timer(load_shape(model), config, context=context + 64)
        start = time.time()
        step = timer.decode(context)
        seconds = time.time() - start
        share = step.useful_bytes / step.cycles / peak_bytes_per_cycle(config)
        rate = config.clock_mhz * 1e6 / step.cycles
        print(f"\n{model} on {name}, context {context}: {share:.2%} of the peak (goal "
              f"{f'{goal:.1%}' if goal else 'none'}), {rate:.2f} tokens/s; timed in {seconds:.1f} s")
        budget(step)
        results.append({"config": name, "model": model, "context": context, "bandwidth_utilisation": share,
                        "goal": goal, "tokens_per_second": rate, "cycles": step.cycles, "wall_seconds": seconds})
    return results


def prefill(tokens: int = 2048) -> dict:
    config = load_config("kv260", ["memory.load_floats=32768"])
    timer = Timer(load_shape("llama-2-7b"), config, context=tokens + 64)
    start = time.time()
    request = timer.request(tokens, 1, samples=5)
    seconds = time.time() - start
    slots = [step.gemm_slots for step in request.simulated]
    rate = tokens * config.clock_mhz * 1e6 / request.prefill_cycles
    print(f"\nllama-2-7b on kv260, prompt of {tokens}: PE slots of the GEMMs {min(slots):.2%} to {max(slots):.2%} "
          f"(goal 90 %), {rate:.2f} tokens/s (interpolated); timed in {seconds:.1f} s")
    budget(request.simulated[-2])
    return {"tokens": tokens, "gemm_pe_slots": slots, "tokens_per_second": rate, "wall_seconds": seconds}


def wall_time() -> list[dict]:
    """Seconds to time one decode step, against layers, context and size."""
    results = []
    print("\nwall time of one decode step")
    for model, layers, context in [("llama-2-7b", 8, 1024), ("llama-2-7b", 16, 1024), ("llama-2-7b", 32, 1024),
                                   ("llama-2-7b", 32, 64), ("llama-2-7b", 32, 4000), ("tinyllama-1.1b", 22, 1024)]:
        shape = load_shape(model)
        shape = replace(shape, config=replace(shape.config, layers=layers))
        timer = Timer(shape, load_config("kv260"), context=context + 64)
        start = time.time()
        step = timer.decode(context)
        seconds = time.time() - start
        print(f"    {model:16} {layers:3} layers, context {context:5}: {seconds:6.2f} s, "
              f"{step.cycles / 1e6:7.1f} M cycles, {step.cycles / seconds / 1e6:5.1f} M cycles/s")
        results.append({"model": model, "layers": layers, "context": context, "wall_seconds": seconds,
                        "cycles": step.cycles})
    return results


def main() -> None:
    results = {"decode": decode(), "prefill": prefill(), "wall_time": wall_time()}
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    Path("results").mkdir(exist_ok=True)
    Path("results/bandwidth.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
