"""STREAM: runs of beats from DRAM into the weight FIFO."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from wordline.rtl.config import Config
from wordline.rtl.dispatch import IN_FLIGHT
from wordline.rtl.isa import StreamInstruction
from wordline.rtl.ports import UnitPort
from wordline.rtl.read_port import RUN_BITS, RunReader, beat_layout, request_layout

#: Beats asked for and not there yet: enough for any memory's latency, and few enough that a load which comes
#: behind them does not wait long.
WINDOW = 256


class StreamUnit(wiring.Component):
    """Reads ``runs`` runs of ``beats`` beats, ``stride`` beats apart, into a FIFO of `memory.stream_beats`.

    Runs that touch (``stride == beats``) are read as one, in long bursts. A burst is asked for only when the
    FIFO has room for all of it. An instruction ends when its last beat is in the FIFO; the next one is
    taken as soon as everything has been asked for, so that DRAM does not idle between them.

    Members
    -------
    port : UnitPort
    requests, beats : to the read arbiter
    out : Out(stream) of beats, to the matmul unit
    """

    def __init__(self, config: Config):
        self.bus, self.depth = config.bus, config.memory.stream_beats
        self.bits, self.address_bits = config.bus.data_bits, config.bus.address_bits
        super().__init__({
            "port": Out(UnitPort(StreamInstruction)),
            "requests": Out(stream.Signature(request_layout(self.address_bits))),
            "beats": In(wiring.Signature({"valid": Out(1), "payload": Out(beat_layout(self.bits))})),
            "out": Out(stream.Signature(self.bits)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self.bits, depth=self.depth)
        m.submodules.reader = reader = RunReader(self.bus, room_bits=range(self.depth + 1))
        connect(m, reader.requests, flipped(self.requests))
        m.d.comb += [
            fifo.w_data.eq(self.beats.payload.data),
            fifo.w_en.eq(self.beats.valid),
            self.out.payload.eq(fifo.r_data),
            self.out.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.out.ready),
        ]

        # Room counts what is neither in the FIFO nor on its way there; the window, what may still be on its way.
        most = min(self.depth, WINDOW)
        room, window = Signal(range(self.depth + 1), init=self.depth), Signal(range(most + 1), init=most)
        m.d.comb += reader.room.eq(Mux(room < window, room, window))
        m.d.sync += [
            room.eq(room - reader.asked + (self.out.valid & self.out.ready)),
            window.eq(window - reader.asked + self.beats.valid),
        ]

        instruction = Signal.like(self.port.instruction.payload)
        address, runs, beats = Signal(self.address_bits), Signal(16), Signal(RUN_BITS)
        m.d.comb += [reader.runs.payload.address.eq(address), reader.runs.payload.beats.eq(beats)]

        # An instruction has ended when as many beats have arrived as all up to it asked for, modulo 2^32.
        m.submodules.ends = ends = SyncFIFO(width=32, depth=IN_FLIGHT)
        expected, arrived, error = Signal(32), Signal(32), Signal()
        total = Signal(32)
        complete = Signal()
        m.d.comb += [
            total.eq(expected + instruction.runs.imm * instruction.beats.imm),
            complete.eq(ends.r_rdy & ~(arrived - ends.r_data)[31]),
            ends.r_en.eq(complete), ends.w_data.eq(total),
            self.port.done.eq(complete), self.port.error.eq(error),
        ]
        m.d.sync += arrived.eq(arrived + self.beats.valid)
        with m.If(complete):
            m.d.sync += error.eq(0)
        with m.If(self.beats.valid & self.beats.payload.error):
            m.d.sync += error.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.port.instruction.ready.eq(1)
                m.d.sync += instruction.eq(self.port.instruction.payload)
                with m.If(self.port.instruction.valid):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                whole = instruction.stride.imm == instruction.beats.imm
                nothing = (instruction.runs.imm == 0) | (instruction.beats.imm == 0)
                m.d.comb += ends.w_en.eq(1)
                m.d.sync += [
                    expected.eq(total),
                    address.eq(instruction.address.imm),
                    runs.eq(Mux(whole, 1, instruction.runs.imm)),
                    beats.eq(Mux(whole, instruction.runs.imm * instruction.beats.imm, instruction.beats.imm)),
                ]
                m.next = "READ"
                with m.If(nothing):
                    m.next = "IDLE"
            with m.State("READ"):
                m.d.comb += reader.runs.valid.eq(1)
                with m.If(reader.runs.ready):
                    m.d.sync += [
                        address.eq(address + instruction.stride.imm * (self.bits // 8)),
                        runs.eq(runs - 1),
                    ]
                    with m.If(runs == 1):
                        m.next = "IDLE"
        return m
