"""Wishbone B4 in place of AXI: a slave for the control registers, a master for memory.

Both speak classic or pipelined cycles (a parameter). Wishbone has no bursts that are of use here: the master asks for
each beat of an AXI burst by itself, in pipelined cycles a beat a clock.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.axi import Axi4, AxiLite

SLVERR = 2
#: Accesses of a pipelined master that are not acknowledged yet.
ROOM = 32


class Wishbone(wiring.Signature):
    """Seen from the master; ``adr`` counts words of the data's width, ``sel`` is a bit a byte."""

    def __init__(self, *, data_bits: int, address_bits: int):
        self.data_bits, self.address_bits = data_bits, address_bits
        super().__init__({
            "cyc": Out(1), "stb": Out(1), "we": Out(1), "adr": Out(address_bits), "dat_w": Out(data_bits),
            "sel": Out(data_bits // 8), "dat_r": In(data_bits), "ack": In(1), "err": In(1), "stall": In(1),
        })


class WishboneControl(wiring.Component):
    """A Wishbone slave of 32 bits as the master of an AXI4-Lite port; one access at a time.

    In pipelined cycles ``stall`` is high while an access is under way; a classic master keeps its strobe until ``ack``.
    A write of part of a word is answered with ``err``: the registers have no bytes.

    Members
    -------
    bus : In(Wishbone)
    control : Out(AxiLite)
    """

    def __init__(self, *, pipelined: bool = False, address_bits: int = 8):
        self.pipelined = pipelined
        super().__init__({"bus": In(Wishbone(data_bits=32, address_bits=address_bits - 2)),
                          "control": Out(AxiLite(address_bits=address_bits))})

    def elaborate(self, platform):
        m = Module()
        bus, control = self.bus, self.control
        address, word = Signal.like(bus.adr), Signal(32)
        aw, w, ar, busy = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            control.awaddr.eq(Cat(Const(0, 2), address)), control.awvalid.eq(aw), control.wdata.eq(word),
            control.wstrb.eq(0xF), control.wvalid.eq(w), control.bready.eq(1),
            control.araddr.eq(Cat(Const(0, 2), address)), control.arvalid.eq(ar), control.rready.eq(1),
            bus.stall.eq(busy if self.pipelined else ~bus.ack & ~bus.err),
        ]
        with m.If(control.awready):
            m.d.sync += aw.eq(0)
        with m.If(control.wready):
            m.d.sync += w.eq(0)
        with m.If(control.arready):
            m.d.sync += ar.eq(0)
        # A classic master shows the access that is being answered in the cycle of the answer still.
        fresh = bus.cyc & bus.stb & ~busy
        if not self.pipelined:
            fresh &= ~bus.ack & ~bus.err
        m.d.sync += [bus.ack.eq(0), bus.err.eq(0)]
        with m.If(fresh):
            m.d.sync += [address.eq(bus.adr), word.eq(bus.dat_w)]
            with m.If(bus.we & ~bus.sel.all()):
                m.d.sync += bus.err.eq(1)
            with m.Else():
                m.d.sync += [busy.eq(1), aw.eq(bus.we), w.eq(bus.we), ar.eq(~bus.we)]
        with m.If(control.bvalid | control.rvalid):
            error = Mux(control.bvalid, control.bresp[1], control.rresp[1])
            # A master that has ended the cycle takes no answer.
            m.d.sync += [busy.eq(0), bus.ack.eq(~error & bus.cyc), bus.err.eq(error & bus.cyc),
                         bus.dat_r.eq(control.rdata)]
        return m


class WishboneMemory(wiring.Component):
    """An AXI4 slave as a Wishbone master: the accelerator's memory on a Wishbone bus.

    One AXI burst after the other, its beats in order; `err` becomes SLVERR of that beat, or of the write. In pipelined
    cycles the slave answers an access in a later clock than it takes it.

    Members
    -------
    axi : In(Axi4); bus : Out(Wishbone) of the same width
    """

    def __init__(self, *, data_bits: int, address_bits: int, pipelined: bool = True):
        self.pipelined, self.low = pipelined, exact_log2(data_bits // 8)
        super().__init__({"axi": In(Axi4(data_bits=data_bits, address_bits=address_bits)),
                          "bus": Out(Wishbone(data_bits=data_bits, address_bits=address_bits - self.low))})

    def elaborate(self, platform):
        m = Module()
        axi, bus, room = self.axi, self.bus, ROOM if self.pipelined else 1
        reading, writing, turn = Signal(), Signal(), Signal()
        address, left, burst_id = Signal.like(bus.adr), Signal(9), Signal()  # beats that have not been asked for
        # What has been asked for, oldest first, and what came back for the master.
        tag = data.StructLayout({"id": 1, "last": 1})
        m.submodules.asked = asked = SyncFIFO(width=2, depth=room)
        m.submodules.beats = beats = SyncFIFOBuffered(width=axi.signature.data_bits + 3, depth=ROOM)
        credit, owed = Signal(range(ROOM + 1), init=ROOM), Signal(range(room + 1))
        entry, oldest = Signal(tag), Signal(tag)
        m.d.comb += [entry.id.eq(burst_id), entry.last.eq(left == 1), asked.w_data.eq(entry), oldest.eq(asked.r_data)]

        free = ~reading & ~writing
        take_write = axi.awvalid & ~axi.bvalid & (turn | ~axi.arvalid)
        m.d.comb += [axi.awready.eq(free & take_write), axi.arready.eq(free & ~take_write)]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        failed = Signal()
        with m.If(free & take_write):
            m.d.sync += [writing.eq(1), turn.eq(0), address.eq(axi.awaddr >> self.low), left.eq(axi.awlen + 1),
                         burst_id.eq(axi.awid), failed.eq(0)]
        with m.Elif(free & axi.arvalid):
            m.d.sync += [reading.eq(1), turn.eq(1), address.eq(axi.araddr >> self.low), left.eq(axi.arlen + 1),
                         burst_id.eq(axi.arid)]

        answered = (bus.ack | bus.err) & (owed != 0) if self.pipelined else bus.ack | bus.err
        offers = (left != 0) & Mux(writing, axi.wvalid, reading & (credit != 0))
        took = Signal()  # the bus has taken an access
        m.d.comb += [
            bus.cyc.eq(bus.stb | (owed != 0)), bus.we.eq(writing), bus.adr.eq(address), bus.dat_w.eq(axi.wdata),
            bus.sel.eq(Mux(writing, axi.wstrb, ~Const(0, len(bus.sel)))),
        ]
        if self.pipelined:
            m.d.comb += [bus.stb.eq(offers & asked.w_rdy), took.eq(bus.stb & ~bus.stall)]
            m.d.sync += owed.eq(owed + took - answered)
            m.d.comb += [asked.w_en.eq(took), asked.r_en.eq(answered)]
        else:
            # The access stays until it is answered.
            m.d.comb += [bus.stb.eq(offers), took.eq(offers & answered), oldest.eq(entry)]
        m.d.comb += axi.wready.eq(took & writing)
        with m.If(took):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]

        done = answered if self.pipelined else took
        came = done & reading
        m.d.comb += [
            beats.w_data.eq(Cat(bus.dat_r, bus.err, oldest.id, oldest.last)), beats.w_en.eq(came),
            axi.rvalid.eq(beats.r_rdy), beats.r_en.eq(axi.rready),
            Cat(axi.rdata, axi.rresp[1], axi.rid, axi.rlast).eq(beats.r_data),
        ]
        m.d.sync += credit.eq(credit - (took & reading) + (axi.rvalid & axi.rready))
        with m.If(done & oldest.last):
            m.d.sync += [reading.eq(0), writing.eq(0)]
            with m.If(writing):
                m.d.sync += [axi.bvalid.eq(1), axi.bid.eq(oldest.id), axi.bresp.eq(Cat(Const(0, 1), failed | bus.err))]
        with m.If(done & writing & bus.err):
            m.d.sync += failed.eq(1)
        return m
