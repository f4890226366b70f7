"""Replays a DRAM command trace and finds what no DRAM would take.

Written from the definitions of the constraints, without a line of the model in `dram.hpp`, so that one checks
the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wordline.sim.dram import COMMANDS, DramTiming


class IllegalCommand(AssertionError):
    """A command came too early, or in a state that forbids it; the message names the constraint."""


class _Command(NamedTuple):
    time: int
    channel: int
    code: int
    group: int
    bank: int
    row: int
    column: int

    @property
    def name(self) -> str:
        return COMMANDS[self.code]

    def where(self, scope: str) -> tuple[int, ...]:
        return {"channel": (), "group": (self.group,), "bank": (self.group, self.bank)}[scope]


@dataclass(frozen=True)
class _Rule:
    """At least `least` clocks from a command of `first` to one of `then` within a channel, group or bank."""

    name: str
    first: str
    then: str
    scope: str
    least: int


def _rules(t: DramTiming) -> list[_Rule]:
    written = t.CWL + t.burst  # WR to the end of its data
    return [
        _Rule("tRCD", "ACT", "RD WR", "bank", t.tRCD),
        _Rule("tRP", "PRE", "ACT", "bank", t.tRP),
        _Rule("tRP", "PRE", "REF", "channel", t.tRP),
        _Rule("tRP", "PREA", "ACT REF", "channel", t.tRP),
        _Rule("tRAS", "ACT", "PRE", "bank", t.tRAS),
        _Rule("tRAS", "ACT", "PREA", "channel", t.tRAS),
        _Rule("tRC", "ACT", "ACT", "bank", t.tRC),
        _Rule("tRC", "ACT", "REF", "channel", t.tRC),
        _Rule("tCCD_S", "RD WR", "RD WR", "channel", t.tCCD_S),
        _Rule("tCCD_L", "RD WR", "RD WR", "group", t.tCCD_L),
        _Rule("tRRD_S", "ACT", "ACT", "channel", t.tRRD_S),
        _Rule("tRRD_L", "ACT", "ACT", "group", t.tRRD_L),
        _Rule("tWR", "WR", "PRE", "bank", written + t.tWR),
        _Rule("tWR", "WR", "PREA", "channel", written + t.tWR),
        _Rule("tWTR_S", "WR", "RD", "channel", written + t.tWTR_S),
        _Rule("tWTR_L", "WR", "RD", "group", written + t.tWTR_L),
        _Rule("tRTP", "RD", "PRE", "bank", t.tRTP),
        _Rule("tRTP", "RD", "PREA", "channel", t.tRTP),
        _Rule("tRTW", "RD", "WR", "channel", t.tRTW),
        _Rule("tRFC", "REF", " ".join(COMMANDS), "channel", t.tRFC),
    ]


def check(trace: np.ndarray, timing: DramTiming, postponed: int = 8) -> None:
    """Passes a legal trace and raises at the first command that is not.

    Parameters
    ----------
    trace : COMMAND[n]
        From clock 0 on, in any order.
    timing : DramTiming
    postponed : int
        Refreshes that may be overdue when another command comes; JEDEC allows 8.

    Raises
    ------
    IllegalCommand
    """
    for channel in np.unique(trace["channel"]):
        commands = trace[trace["channel"] == channel]
        replay = _Channel(timing, postponed)
        for command in commands[np.argsort(commands["time"], kind="stable")].tolist():
            replay.take(_Command(*command))


class _Channel:
    """One channel's state, command by command."""

    def __init__(self, timing: DramTiming, postponed: int):
        self.timing, self.postponed = timing, postponed
        self.rules = _rules(timing)
        self.now = -1
        self.last: dict[tuple[str, tuple[int, ...]], int] = {}  # when a command last came to a place
        self.rows: dict[tuple[int, ...], int] = {}  # the open ones, by bank
        self.activates: list[int] = []
        self.data_end = self.refreshes = 0

    def take(self, command: _Command) -> None:
        for why in self._objections(command):
            raise IllegalCommand(f"{why}: {command.name} of {command}")
        self._apply(command)

    def _objections(self, c: _Command) -> Iterator[str]:
        t, bank = self.timing, c.where("bank")
        if c.time <= self.now:
            yield "two commands in a clock"
        for rule in self.rules:
            if c.name in rule.then.split():
                for first in rule.first.split():
                    before = self.last.get((first, c.where(rule.scope)))
                    if before is not None and c.time < before + rule.least:
                        yield f"{rule.name}, {rule.least} after {first} at {before}"
        if c.name == "ACT" and len(self.activates) >= 4 and c.time < self.activates[-4] + t.tFAW:
            yield f"tFAW, five ACTs since {self.activates[-4]}"
        if c.name == "ACT" and bank in self.rows:
            yield "bank is open"
        if c.name == "PRE" and bank not in self.rows:
            yield "bank is closed"
        if c.name == "REF" and self.rows:
            yield "a bank is open"
        if c.name in ("RD", "WR"):
            if self.rows.get(bank) != c.row:
                yield "row is not open"
            if self._data_start(c) < self.data_end:
                yield f"data bus is busy until {self.data_end}"
        if t.tREFI and c.name not in ("PREA", "REF") and c.time // t.tREFI - self.refreshes > self.postponed:
            yield f"tREFI, {self.refreshes} refreshes so far"

    def _data_start(self, c: _Command) -> int:
        return c.time + (self.timing.CL if c.name == "RD" else self.timing.CWL)

    def _apply(self, c: _Command) -> None:
        self.now = c.time
        for scope in ("channel", "group", "bank"):
            self.last[c.name, c.where(scope)] = c.time
        if c.name == "ACT":
            self.rows[c.where("bank")] = c.row
            self.activates.append(c.time)
        elif c.name == "PRE":
            del self.rows[c.where("bank")]
        elif c.name == "PREA":
            self.rows.clear()
        elif c.name == "REF":
            self.refreshes += 1
        else:
            self.data_end = self._data_start(c) + self.timing.burst
