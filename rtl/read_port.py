"""Reading from the bus: two clients on one AXI4 read channel, and the cutting of runs into bursts."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.axi import INCR
from wordline.rtl.config import BusConfig

MAX_BURST = 64
RUN_BITS = 28


def request_layout(address_bits: int) -> data.StructLayout:
    return data.StructLayout({"address": address_bits, "length": 8})


def beat_layout(data_bits: int) -> data.StructLayout:
    return data.StructLayout({"data": data_bits, "error": 1})


class ReadArbiter(wiring.Component):
    """Two clients on the AR and R channels: client 0 (LOAD, ID 0) goes before client 1 (STREAM, ID 1).

    A client asks for a burst (``length`` + 1 beats) only when it has room for all of it, so R is always
    ready and neither client can block the other. A request goes out one cycle after it was taken.
    """

    def __init__(self, *, data_bits: int, address_bits: int):
        self.data_bits = data_bits
        request = stream.Signature(request_layout(address_bits))
        beats = wiring.Signature({"valid": Out(1), "payload": Out(beat_layout(data_bits))})
        super().__init__({
            "requests": In(request).array(2),
            "beats": Out(beats).array(2),
            "arid": Out(1), "araddr": Out(address_bits), "arlen": Out(8), "arsize": Out(3),
            "arburst": Out(2), "arvalid": Out(1), "arready": In(1),
            "rid": In(1), "rdata": In(data_bits), "rresp": In(2), "rvalid": In(1), "rready": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        first, second = self.requests
        free = Signal()
        m.d.comb += [
            free.eq(~self.arvalid | self.arready),
            first.ready.eq(free),
            second.ready.eq(free & ~first.valid),
            self.arsize.eq(exact_log2(self.data_bits // 8)),
            self.arburst.eq(INCR),
            self.rready.eq(1),
        ]
        with m.If(free):
            chosen = Mux(first.valid, first.payload.as_value(), second.payload.as_value())
            request = request_layout(len(self.araddr))(chosen)
            m.d.sync += [
                self.arvalid.eq(first.valid | second.valid),
                self.arid.eq(~first.valid),
                self.araddr.eq(request.address),
                self.arlen.eq(request.length),
            ]
        for i in range(2):
            m.d.comb += [
                self.beats[i].valid.eq(self.rvalid & (self.rid == i)),
                self.beats[i].payload.data.eq(self.rdata),
                self.beats[i].payload.error.eq(self.rresp[1]),
            ]
        return m


class RunReader(wiring.Component):
    """Cuts runs into INCR bursts of at most `MAX_BURST` beats that do not cross a page (`BusConfig.page_bytes`).

    A burst is asked for when `room` has space for it; `asked` tells how much that was.
    Two cycles a burst: measure, ask. ``runs.ready`` is low while a run is under way.

    Members
    -------
    runs : In(stream) of beat-aligned address and number of beats (at least 1)
    room : In, beats that the receiver can still take (not counting what was asked before)
    asked : Out, beats of the request that goes out in this cycle, else 0
    """

    def __init__(self, bus: BusConfig, *, room_bits: int):
        address_bits = bus.address_bits
        self.beat_bytes, self.page_bytes = bus.data_bits // 8, bus.page_bytes
        run = data.StructLayout({"address": address_bits, "beats": RUN_BITS})
        super().__init__({
            "runs": In(stream.Signature(run)),
            "room": In(room_bits),
            "asked": Out(9),
            "requests": Out(stream.Signature(request_layout(address_bits))),
        })

    def elaborate(self, platform):
        m = Module()
        page = self.page_bytes // self.beat_bytes
        longest = min(MAX_BURST, page)
        address, left = Signal.like(self.runs.payload.address), Signal(RUN_BITS)
        burst = Signal(range(longest + 1))
        to_page, limit = Signal(range(page + 1)), Signal(range(longest + 1))
        m.d.comb += [
            to_page.eq(page - address[exact_log2(self.beat_bytes) : exact_log2(self.page_bytes)]),
            limit.eq(Mux(to_page > longest, longest, to_page)),
            self.requests.payload.address.eq(address),
            self.requests.payload.length.eq(burst - 1),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.runs.ready.eq(1)
                m.d.sync += [address.eq(self.runs.payload.address), left.eq(self.runs.payload.beats)]
                with m.If(self.runs.valid):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                m.d.sync += burst.eq(Mux(left > limit, limit, left))
                m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += self.requests.valid.eq(self.room >= burst)
                with m.If(self.requests.valid & self.requests.ready):
                    m.d.comb += self.asked.eq(burst)
                    m.d.sync += [address.eq(address + burst * self.beat_bytes), left.eq(left - burst)]
                    m.next = "MEASURE"
                    with m.If(left == burst):
                        m.next = "IDLE"
        return m
