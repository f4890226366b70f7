"""Queues and semaphores between the sequencer and the units."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from wordline.rtl.isa import INSTRUCTION_BITS, SEMAPHORE_BITS, UNITS, Instruction, Unit
from wordline.rtl.ports import UnitPort

QUEUE_DEPTH = 4


class Dispatch(wiring.Component):
    """A queue per unit, and a counter for every ordered pair of units.

    The head of a queue is offered to its unit while every counter it waits for is above zero; with the
    transfer (the instruction's start) each gives one. ``done`` (its end) adds one to each counter it
    signals, and a dependent instruction can start in the next cycle. An instruction can start in
    the cycle after it was queued.

    Members
    -------
    clear : In, empties queues and counters
    queue : In(stream) of instructions with operands resolved, any unit but CONTROL
    control_wait, control_signal, control_granted, control_take : the sequencer's own instruction
    units : to the units, in the order of `Unit`
    started, ended : Out, strobes per unit (bit 5: CONTROL)
    busy : Out, per unit
    idle : Out, nothing queued and no unit busy
    overflow : Out, a counter was full when it was signalled
    """

    def __init__(self):
        super().__init__({
            "clear": In(1),
            "queue": In(stream.Signature(Instruction)),
            "control_wait": In(UNITS), "control_signal": In(UNITS),
            "control_granted": Out(1), "control_take": In(1),
            "units": In(UnitPort(INSTRUCTION_BITS)).array(UNITS - 1),
            "started": Out(UNITS), "ended": Out(UNITS), "busy": Out(UNITS),
            "idle": Out(1), "overflow": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        counters = [[Signal(SEMAPHORE_BITS, name=f"from_{p.name.lower()}_to_{u.name.lower()}")
                     for u in Unit] for p in Unit]

        def granted(wait, unit: int):
            return ~Cat(wait[p] & (counters[p][unit] == 0) for p in range(UNITS)).any()

        takes = [Signal(UNITS, name=f"takes_{u.name.lower()}") for u in Unit]
        gives = [Signal(UNITS, name=f"gives_{u.name.lower()}") for u in Unit]
        waiting = []
        ready = Signal(UNITS - 1)
        for unit in range(UNITS - 1):
            name = Unit(unit).name.lower()
            port = self.units[unit]
            fifo = SyncFIFO(width=INSTRUCTION_BITS, depth=QUEUE_DEPTH)
            m.submodules[f"queue_{name}"] = fifo
            head = data.View(data.Layout.cast(Instruction), fifo.r_data)
            signal, busy = Signal(UNITS, name=f"signal_{name}"), Signal(name=f"busy_{name}")
            start = port.instruction.valid & port.instruction.ready
            m.d.comb += [
                ready[unit].eq(fifo.w_rdy),
                fifo.w_data.eq(self.queue.payload),
                fifo.w_en.eq(self.queue.valid & (self.queue.payload.unit == unit)),
                port.instruction.valid.eq(fifo.r_rdy & granted(head.wait, unit)),
                port.instruction.payload.eq(fifo.r_data),
                fifo.r_en.eq(start | self.clear),
                self.started[unit].eq(start), self.ended[unit].eq(port.done), self.busy[unit].eq(busy),
                takes[unit].eq(Mux(start, head.wait, 0)), gives[unit].eq(Mux(port.done, signal, 0)),
            ]
            with m.If(port.done):
                m.d.sync += busy.eq(0)
            with m.If(start):
                m.d.sync += [busy.eq(1), signal.eq(head.signal)]
            waiting.append(fifo.r_rdy)
        m.d.comb += [
            self.queue.ready.eq(ready.bit_select(self.queue.payload.unit, 1)),
            self.control_granted.eq(granted(self.control_wait, Unit.CONTROL)),
            self.started[Unit.CONTROL].eq(self.control_take),
            self.ended[Unit.CONTROL].eq(self.control_take),
            self.busy[Unit.CONTROL].eq(self.control_take),
            takes[Unit.CONTROL].eq(Mux(self.control_take, self.control_wait, 0)),
            gives[Unit.CONTROL].eq(Mux(self.control_take, self.control_signal, 0)),
            self.idle.eq(~Cat(waiting).any() & ~self.busy[: UNITS - 1].any()),
        ]
        full = []
        for p in range(UNITS):
            for u in range(UNITS):
                counter = counters[p][u]
                m.d.sync += counter.eq(Mux(self.clear, 0, counter + gives[p][u] - takes[u][p]))
                full.append(counter.all() & gives[p][u])
        m.d.comb += self.overflow.eq(Cat(full).any())
        return m
