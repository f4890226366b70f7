"""Queues between the sequencer and the units; semaphores decide when a head may start."""

from amaranth.hdl import Cat, Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from wordline.rtl.isa import INSTRUCTION_BITS, UNITS, Instruction, Unit
from wordline.rtl.ports import UnitPort
from wordline.rtl.semaphores import Semaphores

QUEUE_DEPTH = 4
#: Instructions that one unit may have started and not ended (only STREAM and STORE overlap them).
IN_FLIGHT = 16


class Dispatch(wiring.Component):
    """A queue per unit. Its head is offered to the unit while every semaphore it waits for is there.

    With the transfer (the instruction's *start*) it takes them; with ``done`` (its *end*) it gives those
    it signals. A unit's instructions start in order and end in order. Earliest start::

        start = max(queued + 1, end of every instruction it waits for + 1, first cycle the unit is ready)

    Members
    -------
    flush : In, throws away what is queued and clears the semaphores, as long as it is high
    queue : In(stream) of instructions with operands resolved, any unit but CONTROL
    control_wait, control_signal, control_granted, control_take : the sequencer's own instruction;
        it starts and ends in the cycle of ``control_take``
    units : to the units, in the order of `Unit`
    started, ended : Out, strobes per unit (bit 5: CONTROL)
    busy : Out, per unit, high from the cycle after a start to the end (CONTROL: with its strobes)
    idle : Out, nothing queued and no unit busy
    overflow : Out, a semaphore was full when it was signalled
    """

    def __init__(self):
        super().__init__({
            "flush": In(1),
            "queue": In(stream.Signature(Instruction)),
            "control_wait": In(UNITS), "control_signal": In(UNITS),
            "control_granted": Out(1), "control_take": In(1),
            "units": In(UnitPort(INSTRUCTION_BITS)).array(UNITS - 1),
            "started": Out(UNITS), "ended": Out(UNITS), "busy": Out(UNITS),
            "idle": Out(1), "overflow": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.semaphores = semaphores = Semaphores()
        queued, room = [], []
        for unit, port in zip(Unit, self.units, strict=False):
            m.submodules[f"queue_{unit.name.lower()}"] = queue = SyncFIFO(
                width=INSTRUCTION_BITS, depth=QUEUE_DEPTH)
            m.submodules[f"signals_{unit.name.lower()}"] = signals = SyncFIFO(
                width=UNITS, depth=IN_FLIGHT)
            head = data.View(data.Layout.cast(Instruction), queue.r_data)
            start = port.instruction.valid & port.instruction.ready
            m.d.comb += [
                queue.w_data.eq(self.queue.payload),
                queue.w_en.eq(self.queue.valid & (self.queue.payload.unit == unit)),
                port.instruction.payload.eq(queue.r_data),
                port.instruction.valid.eq(
                    queue.r_rdy & semaphores.granted[unit] & signals.w_rdy & ~self.flush),
                queue.r_en.eq(start | self.flush),
                signals.w_data.eq(head.signal), signals.w_en.eq(start), signals.r_en.eq(port.done),
                semaphores.wait[unit].eq(head.wait), semaphores.take[unit].eq(start),
                semaphores.signal[unit].eq(signals.r_data), semaphores.give[unit].eq(port.done),
                self.started[unit].eq(start), self.ended[unit].eq(port.done),
                self.busy[unit].eq(signals.r_rdy),
            ]
            queued.append(queue.r_rdy)
            room.append(queue.w_rdy)
        control = Unit.CONTROL
        m.d.comb += [
            self.queue.ready.eq(Cat(room).bit_select(self.queue.payload.unit, 1)),
            semaphores.clear.eq(self.flush),
            semaphores.wait[control].eq(self.control_wait),
            semaphores.signal[control].eq(self.control_signal),
            semaphores.take[control].eq(self.control_take),
            semaphores.give[control].eq(self.control_take),
            self.control_granted.eq(semaphores.granted[control]),
            self.started[control].eq(self.control_take),
            self.ended[control].eq(self.control_take),
            self.busy[control].eq(self.control_take),
            self.idle.eq(~Cat(queued).any() & ~self.busy[:control].any()),
            self.overflow.eq(semaphores.overflow),
        ]
        return m
