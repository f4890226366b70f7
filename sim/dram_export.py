"""Request traces that other DRAM simulators read, with the time that this one takes for them.

So that anyone can compare: DRAMsim3's trace (``dramsim3main -t``: address, READ or WRITE, cycle) and Ramulator 2's
load-store trace (``LD``/``ST`` and address). Every request is there from cycle 0 on. Expect agreement where only the
constraints speak (sequential, strided), within refresh; random traffic differs, since those reorder requests
and this controller does not.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordline.sim.dram import DramCounters, DramModel, DramTiming

FORMATS = ("dramsim3", "ramulator2")
PATTERNS = ("sequential", "strided", "random")


@dataclass(frozen=True)
class Expected:
    """What this model takes for a trace: clocks of the DRAM until the last data, share of the peak, commands."""

    clocks: int
    share_of_peak: float
    counters: DramCounters


def pattern(name: str, timing: DramTiming, n: int, seed: int = 0) -> np.ndarray:
    """uint64[n]: burst addresses. `strided`: one burst of every row's worth of addresses. `random`: anywhere.

    Raises
    ------
    ValueError
        There is no such pattern.
    """
    burst = np.arange(n, dtype=np.uint64)
    if name == "sequential":
        return burst * np.uint64(timing.burst_bytes) % np.uint64(timing.size)
    if name == "strided":
        return burst * np.uint64(timing.burst_bytes * timing.columns) % np.uint64(timing.size)
    if name == "random":
        bursts = timing.size // timing.burst_bytes
        return np.random.default_rng(seed).integers(0, bursts, n, np.uint64) * np.uint64(timing.burst_bytes)
    raise ValueError(f"no pattern {name!r}: one of {', '.join(PATTERNS)}")


def write_trace(path: Path, addresses: np.ndarray, form: str, writes: np.ndarray | None = None) -> None:
    """A trace file. Raises ValueError for a format that is not in `FORMATS`."""
    stores = np.zeros(len(addresses), bool) if writes is None else writes
    if form == "dramsim3":
        lines = [f"0x{int(a):X} {'WRITE' if w else 'READ'} 0\n" for a, w in zip(addresses, stores, strict=True)]
    elif form == "ramulator2":
        lines = [f"{'ST' if w else 'LD'} 0x{int(a):x}\n" for a, w in zip(addresses, stores, strict=True)]
    else:
        raise ValueError(f"no format {form!r}: one of {', '.join(FORMATS)}")
    path.write_text("".join(lines))


def expected(timing: DramTiming, addresses: np.ndarray, writes: np.ndarray | None = None) -> Expected:
    """Time of a trace whose requests all arrive in cycle 0; the clock is the DRAM's own."""
    model = DramModel(timing, timing.tck_ps)
    done = model.access(np.zeros(len(addresses), np.int64), addresses, False if writes is None else writes)
    clocks = int(done.max())
    least = len(addresses) * timing.burst / timing.channels
    return Expected(clocks, least / clocks, model.counters())
