"""When DRAM answers: the model of `dram.hpp` from Python, over arrays of bursts."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from wordline.rtl.config import Config
from wordline.sim import toolchain
from wordline.sim.dram_devices import COUNTS, DEVICES, FIELDS, TIMES, DramError, DramTiming, device

__all__ = ["COMMAND", "COMMANDS", "DEVICES", "DramCounters", "DramError", "DramModel", "DramParams", "DramTiming",
           "device", "of_config", "params", "timing_of"]

COMMANDS = ("ACT", "PRE", "PREA", "RD", "WR", "REF")  # in the order of DramCommandKind
COMMAND = np.dtype([("time", "<i8"), ("channel", "<i4"), ("command", "<i4"), ("group", "<i4"), ("bank", "<i4"),
                    ("row", "<i4"), ("column", "<i4")])


class DramParams(ctypes.Structure):
    """`DramParams` of dram.hpp, for C++."""

    _fields_ = [("tck_ps", ctypes.c_int64), ("core_ps", ctypes.c_int64),
                *((name, ctypes.c_int32) for name in (*COUNTS, *TIMES, "front", "back")),
                ("map", ctypes.c_int32 * len(FIELDS))]


def params(timing: DramTiming, core_ps: int, front: int, back: int) -> DramParams:
    """What the C++ model wants of a DRAM and of the accelerator in front of it; see `DramModel`.

    Raises
    ------
    DramError
    """
    if core_ps < 1 or front < 0 or back < 0:
        raise DramError(f"core_ps = {core_ps}, front = {front}, back = {back}: must be positive")
    order = [FIELDS.index(name) for name in reversed(timing.mapping.split(":"))]
    values = {name: getattr(timing, name) for name in ("tck_ps", *COUNTS, *TIMES)}
    return DramParams(core_ps=core_ps, front=front, back=back, map=(ctypes.c_int32 * len(FIELDS))(*order), **values)


def timing_of(config: Config) -> DramTiming | None:
    """The DRAM of a configuration, with its channels and its mapping; None for kind "fixed", which is no DRAM.

    Raises
    ------
    DramError
        There is no such device, or its mapping is not valid.
    """
    d = config.dram
    if d.kind == "fixed":
        return None
    return device(d.kind, channels=d.channels or None, mapping=d.mapping or None)


def of_config(config: Config) -> DramParams | None:
    """What one port of the bus sees of `timing_of`, for C++, at the configuration's clock: with several ports, its
    part of the channels.

    Raises
    ------
    DramError
        More ports than channels.
    """
    timing, ports = timing_of(config), config.bus.ports
    if timing is None:
        return None
    if timing.channels % ports:
        raise DramError(f"bus.ports = {ports}: {config.dram.kind} has {timing.channels} channels, and each port needs "
                        "its own: set dram.channels")
    return params(replace(timing, channels=timing.channels // ports), round(1e6 / config.clock_mhz), 0,
                  config.dram.latency)


@dataclass(frozen=True)
class DramCounters:
    """What a DRAM did so far, all channels together.

    Attributes
    ----------
    commands : dict[str, int]
        Commands by name, see `COMMANDS`; PREA closes all banks before a refresh.
    hits, misses, conflicts : int
        Bursts that found their row open, no row open, another row open.
    data_clocks, refresh_clocks : int
        Command clocks with data on a bus; command clocks from a refresh's due time to its end.
    """

    commands: dict[str, int]
    hits: int
    misses: int
    conflicts: int
    data_clocks: int
    refresh_clocks: int

    def __sub__(self, before: DramCounters) -> DramCounters:
        return DramCounters({name: n - before.commands[name] for name, n in self.commands.items()},
                            *(getattr(self, name) - getattr(before, name) for name in
                              ("hits", "misses", "conflicts", "data_clocks", "refresh_clocks")))


def empty_counters() -> ctypes.Array:
    """Room for the C++ `DramCounters`."""
    return (ctypes.c_int64 * (len(COMMANDS) + 5))()


def counters_of(values: ctypes.Array) -> DramCounters:
    return DramCounters(dict(zip(COMMANDS, values, strict=False)), *values[len(COMMANDS) :])


class DramModel:
    """A DRAM behind an accelerator.

    Parameters
    ----------
    timing : DramTiming
    core_ps : int
        Period of the accelerator's clock, picoseconds.
    front, back : int
        Core cycles through controller and PHY, to the DRAM and from it; 0 is an ideal controller.
    record : bool
        Keep every command for `trace`.

    Raises
    ------
    DramError
    MissingTool
        There is no C++ compiler.
    """

    def __init__(self, timing: DramTiming, core_ps: int, *, front: int = 0, back: int = 0, record: bool = False):
        self.timing, self.core_ps = timing, core_ps
        self._last = 0
        self._library = _library()
        self._dram = self._library.dram_new(ctypes.byref(params(timing, core_ps, front, back)), record)

    def __del__(self) -> None:
        if getattr(self, "_dram", None):
            self._library.dram_free(self._dram)
            self._dram = None

    def access(self, arrival: np.ndarray, address: np.ndarray, write: np.ndarray | bool = False) -> np.ndarray:
        """Serves bursts; continues where the last call ended.

        Parameters
        ----------
        arrival : int64[n], non-decreasing
            Core cycles in which the requests reach the controller.
        address : uint64[n]
            A byte of each burst.
        write : bool[n] or bool

        Returns
        -------
        int64[n]
            Core cycles in which read data is complete at the accelerator, or data written.

        Raises
        ------
        DramError
            Arrivals decrease, or are negative.
        """
        arrival = np.ascontiguousarray(arrival, np.int64)
        address = np.ascontiguousarray(address, np.uint64)
        writes = np.ascontiguousarray(np.broadcast_to(write, arrival.shape), np.uint8)
        if arrival.ndim != 1 or address.shape != arrival.shape:
            raise DramError(f"arrivals of shape {arrival.shape}, addresses of shape {address.shape}")
        done = np.empty(arrival.shape, np.int64)
        if len(arrival):
            if arrival[0] < self._last or np.any(np.diff(arrival) < 0):
                raise DramError("arrivals must not decrease")
            self._last = int(arrival[-1])
        self._library.dram_access(self._dram, len(arrival), *(a.ctypes.data for a in (arrival, address, writes, done)))
        return done

    def settle(self, cycle: int) -> None:
        """Does the refreshes due by a core cycle, which otherwise wait for the next access."""
        self._library.dram_settle(self._dram, cycle)

    def counters(self) -> DramCounters:
        values = empty_counters()
        self._library.dram_counters(self._dram, values)
        return counters_of(values)

    def trace(self) -> np.ndarray:
        """COMMAND[n]: all commands so far if `record`, in no order of time; `COMMANDS` names them."""
        out = np.zeros(self._library.dram_trace(self._dram, None), COMMAND)
        self._library.dram_trace(self._dram, out.ctypes.data)
        return out


@cache
def _library() -> ctypes.CDLL:
    folder = Path(__file__).parent
    path = toolchain.shared_library(folder / "dram.cpp", [folder / "dram.hpp"])
    c, pointer = ctypes.CDLL(str(path)), ctypes.c_void_p
    c.dram_new.restype, c.dram_new.argtypes = pointer, [pointer, ctypes.c_int]
    c.dram_free.argtypes = [pointer]
    c.dram_access.argtypes = [pointer, ctypes.c_uint64, pointer, pointer, pointer, pointer]
    c.dram_settle.argtypes = [pointer, ctypes.c_int64]
    c.dram_counters.argtypes = [pointer, pointer]
    c.dram_trace.restype, c.dram_trace.argtypes = ctypes.c_uint64, [pointer, pointer]
    return c
