"""Writes instructions in program order and finds out by itself who must wait for whom.

Within a stretch of straight code every instruction's reads and writes of the on-chip banks, and of named DRAM regions,
are known, so a semaphore is added for every read after write, write after read and write after
write between different units. A bank may be taken in parts ("M/scores0"): two parts are strangers, a part and
its whole are not. Around labels a *barrier* makes the sequencer wait until all units
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


def _overlap(a: str, b: str) -> bool:
    """The same, or one a part of the other."""
    return a == b or a.startswith(f"{b}/") or b.startswith(f"{a}/")


#: Which part of a bank an instruction means: bank -> name of the part.
Parts = dict[str, str]


def _named(banks: set[str], parts: Parts | None) -> set[str]:
    return {f"{bank}/{parts[bank]}" if parts and bank in parts else bank for bank in banks if bank}


@dataclass
class _Item:
    unit: Unit
    fields: dict[str, Any]
    part: str
    wait: int = 0
    signal: int = 0


@dataclass
class Builder:
    """Collects instructions; `words` gives them encoded.

    Attributes
    ----------
    part : str
        The part of the model that instructions are for from here on; `sections` says which are for which.
    """

    part: str = "step"
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
            for other, writer in self._writer.items():
                if _overlap(name, other):
                    need(writer)
        for name in writes:
            for other, readers in self._readers.items():
                if _overlap(name, other):
                    for reader in readers.values():
                        need(reader)
        self.items.append(_Item(unit, fields, self.part))
        self._wait(index, needs)
        for name in writes:
            # What this write waited for need not be waited for again by who waits for this write.
            for old in [other for other in self._writer if other.startswith(f"{name}/")]:
                del self._writer[old]
            for old in [other for other in self._readers if other == name or other.startswith(f"{name}/")]:
                del self._readers[old]
            self._writer[name] = index
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
            self.items.append(_Item(Unit.CONTROL, {"operation": Operation.SYNC}, self.part))
            self._wait(len(self.items) - 1, pending)
        self._writer.clear()
        self._readers.clear()
        self._last.clear()

    def label(self, name: str) -> None:
        self.barrier()
        self.labels[name] = len(self.items)

    def control(self, operation: Operation, **fields: Any) -> None:
        self.items.append(_Item(Unit.CONTROL, {"operation": operation} | fields, self.part))

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
             region: str = "", parts: Parts | None = None) -> None:
        self._emit(Unit.LOAD, {"address": address, "dst": dst, "count": count, "element": element},
                   {region} - {""}, _named({"L"}, parts))

    def load_register(self, register: int, address: Operand, region: str = "") -> None:
        """A word of DRAM into a register; the sequencer waits for it."""
        self._emit(Unit.LOAD, {"address": address, "register": register, "element": LoadFormat.REGISTER},
                   {region} - {""}, set())
        self.items.append(_Item(Unit.CONTROL, {"operation": Operation.SYNC}, self.part))
        self._wait(len(self.items) - 1, {Unit.LOAD: len(self.items) - 2})

    def stream(self, address: Operand, runs: Operand, beats: Operand, stride: Operand,
               region: str = "") -> None:
        self._emit(Unit.STREAM, {"address": address, "runs": runs, "beats": beats, "stride": stride},
                   {region} - {""}, set())

    def matmul(self, parts: Parts | None = None, **fields: Any) -> None:
        self._emit(Unit.MATMUL, fields, _named({"ACT", "ROW_SCALE"}, parts), _named({"M"}, parts))

    def vector(self, parts: Parts | None = None, **fields: Any) -> None:
        reads = {_BANK_OF_A.get(fields.get("a_source", SourceA.X), "")}
        if Factor.B in (fields.get("multiply"), fields.get("addend")):
            reads.add(_BANK_OF_B[fields.get("b_source", SourceB.X)])
        writes = {_BANK_OF_DESTINATION.get(fields.get("destination", Destination.NONE), "")}
        if isinstance(fields.get("immediate"), float):
            fields["immediate"] = float_bits(fields["immediate"])
        self._emit(Unit.VECTOR, fields, _named(reads, parts), _named(writes, parts))

    def store(self, address: Operand, src: Operand, count: Operand, region: str, parts: Parts | None = None,
              **fields: Any) -> None:
        self._emit(Unit.STORE, {"address": address, "src": src, "count": count} | fields, _named({"S"}, parts),
                   {region})

    def sections(self) -> list[list[int | str]]:
        """Where a part begins, and its name, in program order."""
        return [[i, item.part] for i, item in enumerate(self.items) if i == 0 or item.part != self.items[i - 1].part]

    def words(self) -> list[int]:
        """The encoded instructions, labels resolved."""
        result = []
        for item in self.items:
            fields = dict(item.fields)
            if isinstance(fields.get("target"), str):
                fields["target"] = self.labels[fields["target"]]
            result.append(encode(item.unit, fields | {"wait": item.wait, "signal": item.signal}))
        return result
