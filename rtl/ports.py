"""Signatures by which units and on-chip memories meet.

A unit declares ``Out(ReadPort(...))`` or ``Out(WritePort(...))``; the core connects them to memories.
Every memory has one writer, and every reader a port (and copy) of its own, so no access ever waits.
"""

from amaranth.hdl import Shape, ShapeLike
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class ReadPort(wiring.Signature):
    """Synchronous read: ``data`` holds the word at ``addr`` one cycle later, in every cycle."""

    def __init__(self, addr_bits: int, shape: ShapeLike):
        super().__init__({"addr": Out(addr_bits), "data": In(shape)})


class WritePort(wiring.Signature):
    """Write of the granules of ``data`` whose bit in ``en`` is set; visible to reads that start in a
    later cycle; a read of the same address in the same cycle may bring anything. Granule i is bits
    ``i*width/granules`` on."""

    def __init__(self, addr_bits: int, width: int, granules: int = 1):
        super().__init__({"en": Out(granules), "addr": Out(addr_bits), "data": Out(width)})


class UnitPort(wiring.Signature):
    """How the sequencer drives a unit (seen from the unit).

    The unit takes an instruction (operands resolved, semaphores already granted) when it is idle:
    the transfer is the instruction's start. It raises ``done`` for one cycle when everything the
    instruction writes is visible: the instruction's end. It may take the next one in the following
    cycle. ``error`` is a bus error, held with ``done``.
    """

    def __init__(self, instruction: ShapeLike):
        self.instruction = Shape.cast(instruction)
        super().__init__({
            "instruction": In(stream.Signature(instruction)),
            "done": Out(1),
            "error": Out(1),
        })
