"""Writes instructions in program order and finds out by itself who must wait for whom.

Within a stretch of straight code every instruction's reads and writes of the on-chip banks, and of named DRAM regions,
are known, so a semaphore is added for every read after write, write after read and write after
write between different units. Around labels a *barrier* makes the sequencer wait until all units
but STREAM (which writes only the weight FIFO) have ended what they were given.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from wordline.compiler.asm import encode
from wordline.rtl.isa import (
    Destination,
    Factor,
    LoadFormat,
    Operation,
    SourceA,
    SourceB,
    Unit,
)

_BANK_OF_A = {SourceA.X: "X", SourceA.M: "M"}
_BANK_OF_B = {SourceB.X: "X", SourceB.M: "M", SourceB.L: "L"}
_BANK_OF_DESTINATION = {Destination.X: "X", Destination.ACT: "ACT", Destination.S: "S",
                        Destination.ROW_SCALE: "ROW_SCALE"}

Operand = int | tuple[int, int]


def float_bits(x: float) -> int:
    return struct.unpack("<I", struct.pack("<f", x))[0]


def reg(number: int, imm: int = 0) -> tuple[int, int]:
    """An operand: register plus immediate."""
    return imm, number


@dataclass
class _Item:
    unit: Unit
    fields: dict[str, Any]
    wait: int = 0
    signal: int = 0


@dataclass
class Builder:
    """Collects instructions; `words` gives them encoded."""

    items: list[_Item] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    _writer: dict[str, int] = field(default_factory=dict)
    _readers: dict[str, dict[Unit, int]] = field(default_factory=dict)
    _waited: dict[tuple[Unit, Unit], int] = field(default_factory=dict)
    _last: dict[Unit, int] = field(default_factory=dict)

    def _emit(self, unit: Unit, fields: dict[str, Any], reads: set[str], writes: set[str]) -> None:
        index = len(self.items)
        needs: dict[Unit, int] = {}

        def need(other: int) -> None:
            producer = self.items[other].unit
            needs[producer] = max(needs.get(producer, -1), other)

        for name in reads | writes:
            if name in self._writer:
                need(self._writer[name])
        for name in writes:
            for other in self._readers.get(name, {}).values():
                need(other)
        self.items.append(_Item(unit, fields))
        self._wait(index, needs)
        for name in writes:
            self._writer[name] = index
            self._readers[name] = {}
        for name in reads:
            self._readers.setdefault(name, {})[unit] = index
        self._last[unit] = index

    def _wait(self, index: int, needs: dict[Unit, int]) -> None:
        unit = self.items[index].unit
        for producer, other in needs.items():
            # Units are in order: having waited for a later instruction of theirs is enough.
            if producer == unit or self._waited.get((unit, producer), -1) >= other:
                continue
            self.items[index].wait |= 1 << producer
            self.items[other].signal |= 1 << unit
            self._waited[unit, producer] = other

    def barrier(self) -> None:
        """The sequencer waits for everything handed out before."""
        pending: dict[Unit, int] = {unit: index for unit, index in self._last.items()
                   if unit not in (Unit.STREAM, Unit.CONTROL)
                   and self._waited.get((Unit.CONTROL, unit), -1) < index}
        if pending:
            self.items.append(_Item(Unit.CONTROL, {"operation": Operation.SYNC}))
            self._wait(len(self.items) - 1, pending)
        self._writer.clear()
        self._readers.clear()
        self._last.clear()

    def label(self, name: str) -> None:
        self.barrier()
        self.labels[name] = len(self.items)

    def control(self, operation: Operation, **fields: Any) -> None:
        self.items.append(_Item(Unit.CONTROL, {"operation": operation} | fields))

    def set(self, rd: int, value: int, ra: int = 0) -> None:
        """rd = ra + value"""
        self.control(Operation.ADDI, rd=rd, ra=ra, value=value)

    def branch(self, operation: Operation, ra: int, rb: int, target: str) -> None:
        self.barrier()
        self.control(operation, ra=ra, rb=rb, target=target)

    @contextmanager
    def loop(self, name: str, counter: int, limit: int) -> Iterator[None]:
        """Repeat with register `counter` from 0 below register `limit` (at least once)."""
        self.set(counter, 0)
        self.label(name)
        yield
        self.set(counter, 1, counter)
        self.branch(Operation.BLT, counter, limit, name)

    def load(self, address: Operand, dst: Operand, count: Operand, element: LoadFormat = LoadFormat.F32,
             region: str = "") -> None:
        self._emit(Unit.LOAD, {"address": address, "dst": dst, "count": count, "element": element},
                   {region} - {""}, {"L"})

    def load_register(self, register: int, address: Operand, region: str = "") -> None:
        """A word of DRAM into a register; the sequencer waits for it."""
        self._emit(Unit.LOAD, {"address": address, "register": register, "element": LoadFormat.REGISTER},
                   {region} - {""}, set())
        self.items.append(_Item(Unit.CONTROL, {"operation": Operation.SYNC}))
        self._wait(len(self.items) - 1, {Unit.LOAD: len(self.items) - 2})

    def stream(self, address: Operand, runs: Operand, beats: Operand, stride: Operand,
               region: str = "") -> None:
        self._emit(Unit.STREAM, {"address": address, "runs": runs, "beats": beats, "stride": stride},
                   {region} - {""}, set())

    def matmul(self, **fields: Any) -> None:
        self._emit(Unit.MATMUL, fields, {"ACT", "ROW_SCALE"}, {"M"})

    def vector(self, **fields: Any) -> None:
        reads = {_BANK_OF_A.get(fields.get("a_source", SourceA.X), "")}
        if Factor.B in (fields.get("multiply"), fields.get("addend")):
            reads.add(_BANK_OF_B[fields.get("b_source", SourceB.X)])
        writes = {_BANK_OF_DESTINATION.get(fields.get("destination", Destination.NONE), "")}
        if isinstance(fields.get("immediate"), float):
            fields["immediate"] = float_bits(fields["immediate"])
        self._emit(Unit.VECTOR, fields, reads - {""}, writes - {""})

    def store(self, address: Operand, src: Operand, count: Operand, region: str, **fields: Any) -> None:
        self._emit(Unit.STORE, {"address": address, "src": src, "count": count} | fields, {"S"}, {region})

    def words(self) -> list[int]:
        """The encoded instructions, labels resolved."""
        result = []
        for item in self.items:
            fields = dict(item.fields)
            if isinstance(fields.get("target"), str):
                fields["target"] = self.labels[fields["target"]]
            result.append(encode(item.unit, fields | {"wait": item.wait, "signal": item.signal}))
        return result
