"""One wide AXI4 bus over several narrow ports in lockstep: for memories of many channels, such as HBM."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.axi import Axi4
from wordline.rtl.config import BusConfig
from wordline.rtl.load_unit import FIFO_BEATS
from wordline.rtl.stream_unit import WINDOW

#: Reads under way, at most: all that LOAD and STREAM may have asked for, a beat each.
READS = FIFO_BEATS + WINDOW


class Stripe(wiring.Component):
    """Slice p of every beat goes through port p; wide address A is address A / N of each of N ports.

    A port's burst has as many beats as the wide one, so it keeps AXI's rules if the wide burst stays within
    `BusConfig.page_bytes`. An address or a write beat is taken when the last port takes it, each port once; a read beat
    or an answer is there when all ports have one. No cycle is added, and ports that hesitate alike look like one port.

    Ports may answer bursts of different IDs in different orders, so all of them carry ID 0, which AXI keeps in order,
    and the wide bus's read IDs wait in a queue.

    Members
    -------
    bus : In(Axi4) of `data_bits`; single-beat writes with ID 0
    ports : Out(Axi4) of `port_bits` each
    """

    def __init__(self, bus: BusConfig):
        self.n, self.slice, self.address_bits = bus.ports, bus.port_bits, bus.address_bits
        super().__init__({
            "bus": In(Axi4(data_bits=bus.data_bits, address_bits=bus.address_bits)),
            "ports": Out(Axi4(data_bits=self.slice, address_bits=bus.address_bits)).array(self.n),
        })

    def elaborate(self, platform):
        m = Module()
        bus, ports = self.bus, self.ports
        low = exact_log2(self.n)
        ids, reads = Signal(READS), Signal(range(READS + 1))  # of the bursts under way, the oldest in bit 0; how many
        push, pop, left = Signal(), Signal(), Signal(range(READS + 1))
        m.d.comb += [push.eq(bus.arvalid & bus.arready), pop.eq(bus.rvalid & bus.rready & bus.rlast),
                     left.eq(reads - pop)]
        m.d.sync += [reads.eq(left + push), ids.eq(Mux(pop, ids >> 1, ids) | ((push & bus.arid) << left))]

        for channel in ("ar", "aw", "w"):
            self._fork(m, channel)
        for i, port in enumerate(ports):
            for channel in ("ar", "aw"):
                m.d.comb += [
                    getattr(port, f"{channel}addr").eq(getattr(bus, f"{channel}addr") >> low),
                    getattr(port, f"{channel}len").eq(getattr(bus, f"{channel}len")),
                    getattr(port, f"{channel}size").eq(exact_log2(self.slice // 8)),
                    getattr(port, f"{channel}burst").eq(getattr(bus, f"{channel}burst")),
                ]
            m.d.comb += [
                port.wdata.eq(bus.wdata.word_select(i, self.slice)),
                port.wstrb.eq(bus.wstrb.word_select(i, self.slice // 8)),
                port.wlast.eq(bus.wlast),
                bus.rdata.word_select(i, self.slice).eq(port.rdata),
            ]
        for channel in ("r", "b"):
            valid = Cat(getattr(port, f"{channel}valid") for port in ports).all()
            m.d.comb += getattr(bus, f"{channel}valid").eq(valid)
            m.d.comb += [getattr(port, f"{channel}ready").eq(valid & getattr(bus, f"{channel}ready")) for port in ports]
            # SLVERR if any port has an error.
            m.d.comb += getattr(bus, f"{channel}resp")[1].eq(Cat(getattr(p, f"{channel}resp")[1] for p in ports).any())
        m.d.comb += [
            bus.rlast.eq(ports[0].rlast), bus.rid.eq(ids[0]),
        ]
        return m

    def _fork(self, m: Module, channel: str) -> None:
        """What is offered to all ports is taken when the last of them has; who was earlier sees it no more."""
        bus, ports = self.bus, self.ports
        valid, ready = getattr(bus, f"{channel}valid"), getattr(bus, f"{channel}ready")
        taken = Signal(self.n, name=f"{channel}_taken")
        now = Signal(self.n, name=f"{channel}_now")
        for i, port in enumerate(ports):
            m.d.comb += [getattr(port, f"{channel}valid").eq(valid & ~taken[i]),
                         now[i].eq(taken[i] | getattr(port, f"{channel}ready"))]
        m.d.comb += ready.eq(now.all())
        with m.If(valid):
            m.d.sync += taken.eq(now & ~ready.replicate(self.n))
