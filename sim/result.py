"""What a run of a program takes, on the RTL and on the cycle model alike."""

from dataclasses import dataclass, field

import numpy as np

from wordline.sim.dram import DramCounters

#: One row per instruction: first and last cycle, unit, and number within the unit.
EVENT = np.dtype([("start", "<i8"), ("end", "<i8"), ("unit", "<u4"), ("index", "<u4")])


@dataclass(frozen=True)
class RunResult:
    """What a run took.

    Attributes
    ----------
    cycles : int
        Core clock cycles from start to end, boot included.
    busy, ended : dict[str, int]
        Busy cycles and instructions ended, per unit.
    dram : DramCounters
        Commands and row hits; zeros without a DRAM.
    events : structured array `EVENT`
        If recorded, every instruction's first and last cycle, in the order of their ends. Cycle 0 is the first of
        `cycles`.
    """

    cycles: int
    busy: dict[str, int]
    ended: dict[str, int]
    dram: DramCounters
    events: np.ndarray = field(repr=False)
