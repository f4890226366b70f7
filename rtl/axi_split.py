"""One wide AXI4 master on several narrow ports, as the memory controllers of Zynq devices have them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.axi import INCR, Axi4

#: Consecutive bytes that lie behind one port.
GRANULE = 1024
#: Bytes per port that have been asked for and not yet handed on.
ROOM = 4096
CHUNKS = 32


class AxiSplit(wiring.Component):
    """Reads of `wide` bits from ports of `narrow` bits, in order; granules of `GRANULE` bytes go round the ports.

    A burst is cut at granules; each piece is a burst of narrow beats at its port, asked for when there is room for all
    of it, so that no port ever waits. Pieces are put together again in the order of the requests: with all ports at
    work a wide beat a cycle. Every port has one ID. A write (a single wide beat) becomes one burst of narrow beats.

    Members
    -------
    master : In(Axi4) of `wide` bits
    base : In, added to every address at the ports; a multiple of 4096
    ports : Out(Axi4) of `narrow` bits each
    """

    def __init__(self, *, wide: int, narrow: int, ports: int, address_bits: int, port_address_bits: int = 40):
        if narrow > wide or ports & (ports - 1):
            raise ValueError(f"{ports} ports of {narrow} bits cannot serve a bus of {wide} bits")
        self.wide, self.narrow, self.count, self.address_bits = wide, narrow, ports, address_bits
        super().__init__({
            "master": In(Axi4(data_bits=wide, address_bits=address_bits)),
            "base": In(port_address_bits),
            "ports": Out(Axi4(data_bits=narrow, address_bits=port_address_bits)).array(ports),
        })

    def elaborate(self, platform):
        m = Module()
        self._reads(m)
        self._writes(m)
        return m

    def _reads(self, m: Module) -> None:
        master, ratio = self.master, self.wide // self.narrow
        beat_bytes = self.wide // 8
        per_granule = GRANULE // beat_bytes
        room_beats = ROOM // beat_bytes
        low, granule = exact_log2(beat_bytes), exact_log2(GRANULE)
        port_bits = exact_log2(self.count)

        # Requests, cut into pieces.
        at, left, burst_id, busy = Signal(self.address_bits), Signal(9), Signal(), Signal()
        to_end, piece = Signal(range(per_granule + 1)), Signal(range(per_granule + 1))
        last_piece, sent = Signal(), Signal()
        which = at[granule : granule + port_bits] if port_bits else Const(0, 1)
        m.d.comb += [
            to_end.eq(per_granule - at[low:granule]),
            last_piece.eq(left <= to_end), piece.eq(Mux(last_piece, left, to_end)),
            master.arready.eq(~busy | (sent & last_piece)),
        ]
        with m.If(sent):
            m.d.sync += [at.eq(at + (piece << low)), left.eq(left - piece), busy.eq(~last_piece)]
        with m.If(master.arvalid & master.arready):
            m.d.sync += [busy.eq(1), at.eq(master.araddr), left.eq(master.arlen + 1), burst_id.eq(master.arid)]
        order = data.StructLayout({"port": max(port_bits, 1), "beats": len(piece), "id": 1, "last": 1})
        m.submodules.order = queue = SyncFIFO(width=order.size, depth=CHUNKS)
        entry = Signal(order)
        m.d.comb += [entry.port.eq(which), entry.beats.eq(piece), entry.id.eq(burst_id), entry.last.eq(last_piece),
                     queue.w_data.eq(entry), queue.w_en.eq(sent)]

        # Each port: an address register, narrow beats gathered to a wide one, a FIFO of those.
        takes, heads, filled = Signal(self.count), [], []
        accepts = Signal(self.count)
        for i, port in enumerate(self.ports):
            room = Signal(range(room_beats + 1), init=room_beats, name=f"room_{i}")
            free = ~port.arvalid | port.arready
            take = takes[i]
            m.d.comb += accepts[i].eq(free & (room >= piece))
            mine = sent & (which == i)
            m.d.sync += room.eq(room - Mux(mine, piece, 0) + take)
            with m.If(port.arready):
                m.d.sync += port.arvalid.eq(0)
            with m.If(mine):
                m.d.sync += [port.arvalid.eq(1), port.araddr.eq(self.base + at), port.arlen.eq(piece * ratio - 1)]
            m.d.comb += [port.arsize.eq(exact_log2(self.narrow // 8)), port.arburst.eq(INCR), port.rready.eq(1)]
            m.submodules[f"beats_{i}"] = fifo = SyncFIFO(width=self.wide + 1, depth=room_beats)
            part, error = Signal(range(max(ratio, 2)), name=f"part_{i}"), Signal(name=f"error_{i}")
            gathered = Signal(self.wide, name=f"gathered_{i}")
            whole = Cat(gathered, port.rdata)[self.narrow :]
            bad = error | port.rresp[1]
            ends = part == ratio - 1
            with m.If(port.rvalid):
                m.d.sync += [gathered.eq(whole), part.eq(Mux(ends, 0, part + 1)), error.eq(Mux(ends, 0, bad))]
            m.d.comb += [fifo.w_data.eq(Cat(whole, bad)), fifo.w_en.eq(port.rvalid & ends), fifo.r_en.eq(take)]
            heads.append(fifo.r_data)
            filled.append(fifo.r_rdy)
        m.d.comb += sent.eq(busy & queue.w_rdy & accepts.bit_select(which, 1))

        # In order again.
        head = Signal(order)
        done = Signal(len(piece))
        have, ends = Signal(), Signal()
        m.d.comb += [
            head.eq(queue.r_data),
            have.eq(queue.r_rdy & Cat(filled).bit_select(head.port, 1)),
            ends.eq(done == head.beats - 1), queue.r_en.eq(have & ends),
            # Not a shift: of an empty queue the port is undefined in Verilog, and `have` decides here in spite of it.
            takes.eq(Cat(have & (head.port == i) for i in range(self.count))),
        ]
        m.d.sync += [master.rvalid.eq(have), master.rid.eq(head.id), master.rlast.eq(ends & head.last)]
        with m.If(have):
            m.d.sync += done.eq(Mux(ends, 0, done + 1))
        with m.Switch(head.port):
            for i, value in enumerate(heads):
                with m.Case(i):
                    m.d.sync += [master.rdata.eq(value[: self.wide]),
                                 master.rresp.eq(Cat(Const(0, 1), value[self.wide]))]

    def _writes(self, m: Module) -> None:
        master, ratio = self.master, self.wide // self.narrow
        granule, port_bits = exact_log2(GRANULE), exact_log2(self.count)
        address, word, strobe = Signal(self.address_bits), Signal(self.wide), Signal(self.wide // 8)
        busy, sent_address, sent_data = Signal(), Signal(), Signal()
        part = Signal(range(max(ratio, 2)))
        which = Signal(max(port_bits, 1))
        taken = Signal()
        m.d.comb += [
            taken.eq(~busy & master.awvalid & master.wvalid), master.awready.eq(taken), master.wready.eq(taken),
            which.eq(address[granule : granule + port_bits] if port_bits else 0),
        ]
        with m.If(taken):
            m.d.sync += [busy.eq(1), sent_address.eq(0), sent_data.eq(0), part.eq(0),
                         address.eq(master.awaddr), word.eq(master.wdata), strobe.eq(master.wstrb)]
        address_moves, data_moves = Signal(), Signal()
        for i, port in enumerate(self.ports):
            mine = busy & (which == i)
            m.d.comb += [
                port.awvalid.eq(mine & ~sent_address), port.awaddr.eq(self.base + address), port.awlen.eq(ratio - 1),
                port.awsize.eq(exact_log2(self.narrow // 8)), port.awburst.eq(INCR),
                port.wvalid.eq(mine & ~sent_data), port.wdata.eq(word[: self.narrow]),
                port.wstrb.eq(strobe[: self.narrow // 8]), port.wlast.eq(part == ratio - 1), port.bready.eq(1),
            ]
            with m.If(port.awvalid & port.awready):
                m.d.comb += address_moves.eq(1)
            with m.If(port.wvalid & port.wready):
                m.d.comb += data_moves.eq(1)
        last = part == ratio - 1
        with m.If(address_moves):
            m.d.sync += sent_address.eq(1)
        with m.If(data_moves):
            m.d.sync += [part.eq(part + 1), word.eq(word[self.narrow :]), strobe.eq(strobe[self.narrow // 8 :])]
            with m.If(last):
                m.d.sync += sent_data.eq(1)
        with m.If(busy & (sent_address | address_moves) & (sent_data | (data_moves & last))):
            m.d.sync += busy.eq(0)

        # Answers of all ports, one a cycle; the master counts them and has one ID.
        waiting, bad = Signal(range(64)), Signal()
        came = sum((port.bvalid for port in self.ports), Const(0, 1))
        errors = Cat(port.bvalid & port.bresp[1] for port in self.ports).any()
        answer = Signal()
        m.d.comb += answer.eq((waiting != 0) & (~master.bvalid | master.bready))
        m.d.sync += waiting.eq(waiting + came - answer)
        with m.If(master.bready):
            m.d.sync += master.bvalid.eq(0)
        with m.If(answer):
            # An error may go with another write's answer: the program ends either way.
            m.d.sync += [master.bvalid.eq(1), master.bresp.eq(Cat(Const(0, 1), bad)), bad.eq(0)]
        with m.If(errors):
            m.d.sync += bad.eq(1)


