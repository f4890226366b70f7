"""The DRAM model: bandwidth reached by three kinds of traffic, and nanoseconds that the model takes per burst.

    python benchmarks/dram.py

Every request is there from the start, so the DRAM alone sets the pace. Times are the least of three runs.
"""

import time

import numpy as np

from wordline.sim.dram import DEVICES, DramModel, DramTiming

BURSTS = 1_000_000
CORE_PS = 5000


def kinds(timing: DramTiming) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Addresses and writes of each kind of traffic, BURSTS bursts each."""
    rng = np.random.default_rng(0)
    line = np.arange(BURSTS, dtype=np.uint64) * timing.burst_bytes
    # Runs of 4 KiB (an AXI burst) from two places in turn, as weights and a KV cache are read.
    run = 4096 // timing.burst_bytes
    step = np.arange(BURSTS, dtype=np.uint64)
    place = step // run % 2 * (timing.size // 2) + (step // run // 2 * run + step % run) * timing.burst_bytes
    return {"sequential reads": (line, np.zeros(BURSTS, bool)),
            "two streams of 4 KiB runs": (place, np.zeros(BURSTS, bool)),
            "random, 30 % writes": (rng.integers(0, timing.size, BURSTS, np.uint64), rng.random(BURSTS) < 0.3)}


def main() -> None:
    print(f"{'':12} {'':26} {'peak':>8} {'reached':>8} {'':>6} {'row hits':>8} {'model':>9}")
    arrival = np.zeros(BURSTS, np.int64)
    for name, timing in DEVICES.items():
        for kind, (address, write) in kinds(timing).items():
            least = float("inf")
            for _ in range(3):
                model = DramModel(timing, CORE_PS)
                start = time.perf_counter()
                done = model.access(arrival, address, write)
                least = min(least, time.perf_counter() - start)
            reached = BURSTS * timing.burst_bytes / (done.max() * CORE_PS * 1e-12)
            peak = timing.peak_bytes_per_second
            print(f"{name:12} {kind:26} {peak / 1e9:6.1f} GB {reached / 1e9:6.1f} GB {reached / peak:6.1%} "
                  f"{model.counters().hits / BURSTS:8.1%} {least / BURSTS * 1e9:6.1f} ns")


if __name__ == "__main__":
    main()
