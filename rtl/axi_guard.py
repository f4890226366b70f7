"""A watchdog between the accelerator and memory: a memory that never answers ends the program with an error."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from wordline.rtl.axi import Axi4

#: Bursts that may be under way at once, per ID, for reads; more wait.
BURSTS = 64
SLVERR = 2


class AxiGuard(wiring.Component):
    """Passes AXI4 through, and counts what is still to come back.

    While nothing is late it is wires, apart from reads beyond `BURSTS` bursts, which wait. When something is
    outstanding (an answer, or an address or write data that the memory does not take) and no channel has moved for
    `limit` cycles, it answers in the memory's place: SLVERR to everything outstanding and everything new, until the
    master is `idle`. So a program ends with a bus error instead of never. What the memory still sends for what had been
    asked is thrown away, and as long as any of that is missing every program ends so.

    Members
    -------
    master : In(Axi4), of the accelerator; takes data and answers at any time
    memory : Out(Axi4)
    limit : In, cycles without movement; 0 switches the watchdog off
    idle : In, no program is under way
    expired : Out, the memory has been given up; falls when it has sent everything and the master is idle
    """

    def __init__(self, *, data_bits: int, address_bits: int):
        self.data_bits = data_bits
        bus = Axi4(data_bits=data_bits, address_bits=address_bits)
        super().__init__({"master": In(bus), "memory": Out(bus), "limit": In(32), "idle": In(1), "expired": Out(1)})

    def elaborate(self, platform):
        m = Module()
        master, memory = self.master, self.memory
        for name, member in memory.signature.members.items():
            ours, theirs = getattr(memory, name), getattr(master, name)
            m.d.comb += ours.eq(theirs) if member.flow == Out else theirs.eq(ours)

        given_up = self.expired
        # Reads under way: a queue of burst lengths per ID, and beats that the memory owes.
        beats_owed = Signal(20)
        queues = []
        for i in range(2):
            m.submodules[f"bursts_{i}"] = queue = SyncFIFO(width=8, depth=BURSTS)
            queues.append(queue)
            m.d.comb += queue.w_data.eq(master.arlen)
        room = Mux(master.arid, queues[1].w_rdy, queues[0].w_rdy)
        held_ar, held_aw, held_w = Signal(), Signal(), Signal()  # offered to the memory when it was given up
        asked = Signal()  # the master's address is taken
        m.d.comb += [
            memory.arvalid.eq(Mux(given_up, held_ar, master.arvalid & room)),
            master.arready.eq(room & (given_up | memory.arready)),
            asked.eq(master.arvalid & master.arready),
        ]
        for i, queue in enumerate(queues):
            m.d.comb += queue.w_en.eq(asked & (master.arid == i))

        # Beats of the head burst of each ID, counted as they reach the master.
        arrived = [Signal(8, name=f"arrived_{i}") for i in range(2)]
        fake_id, fake = Signal(), Signal()
        beat = Signal(data.StructLayout({"valid": 1, "id": 1}))
        m.d.comb += [beat.valid.eq(master.rvalid & master.rready), beat.id.eq(master.rid)]
        for i, queue in enumerate(queues):
            last = arrived[i] == queue.r_data
            mine = beat.valid & (beat.id == i)
            m.d.comb += queue.r_en.eq(mine & last)
            with m.If(mine):
                m.d.sync += arrived[i].eq(Mux(last, 0, arrived[i] + 1))
        m.d.comb += [fake_id.eq(~queues[0].r_rdy), fake.eq(queues[0].r_rdy | queues[1].r_rdy)]
        with m.If(given_up):
            head = Mux(fake_id, queues[1].r_data, queues[0].r_data)
            m.d.comb += [
                memory.rready.eq(1), memory.bready.eq(1), master.rvalid.eq(fake), master.rid.eq(fake_id),
                master.rdata.eq(0), master.rresp.eq(SLVERR),
                master.rlast.eq(Mux(fake_id, arrived[1], arrived[0]) == head),
            ]

        # Writes: single beats. What has been sent and not answered, by the memory and to the master.
        aw_sent, w_sent, answered = Signal(6), Signal(6), Signal(6)  # modulo 64; at most 15 are outstanding
        m.d.comb += [
            memory.awvalid.eq(Mux(given_up, held_aw, master.awvalid)),
            memory.wvalid.eq(Mux(given_up, held_w, master.wvalid)),
            master.awready.eq(given_up | memory.awready), master.wready.eq(given_up | memory.wready),
        ]
        m.d.sync += [
            aw_sent.eq(aw_sent + (master.awvalid & master.awready)),
            w_sent.eq(w_sent + (master.wvalid & master.wready)),
            answered.eq(answered + (master.bvalid & master.bready)),
        ]
        with m.If(given_up):
            m.d.comb += [master.bvalid.eq((aw_sent != answered) & (w_sent != answered)), master.bresp.eq(SLVERR),
                         master.bid.eq(0)]

        # What the memory owes for what it has accepted, whoever still waits for it.
        answers_owed = Signal(7)
        m.d.sync += [
            beats_owed.eq(beats_owed + Mux(memory.arvalid & memory.arready, memory.arlen + 1, 0)
                          - (memory.rvalid & memory.rready)),
            answers_owed.eq(answers_owed + (memory.awvalid & memory.awready) - (memory.bvalid & memory.bready)),
        ]

        # Held addresses keep their payload, as the protocol asks.
        kept = Signal(Cat(memory.araddr, memory.arlen, memory.arid, memory.awaddr, memory.awid, memory.wdata,
                          memory.wstrb).shape())
        current = Cat(master.araddr, master.arlen, master.arid, master.awaddr, master.awid, master.wdata, master.wstrb)
        with m.If(given_up):
            m.d.comb += Cat(memory.araddr, memory.arlen, memory.arid, memory.awaddr, memory.awid, memory.wdata,
                            memory.wstrb).eq(kept)
            m.d.sync += [held_ar.eq(held_ar & ~memory.arready), held_aw.eq(held_aw & ~memory.awready),
                         held_w.eq(held_w & ~memory.wready)]

        moved = Signal()
        outstanding = Signal()
        m.d.comb += [
            moved.eq((memory.arvalid & memory.arready) | (memory.rvalid & memory.rready)
                     | (memory.awvalid & memory.awready) | (memory.wvalid & memory.wready)
                     | (memory.bvalid & memory.bready)),
            outstanding.eq(memory.arvalid | memory.awvalid | memory.wvalid | (beats_owed != 0) | (answers_owed != 0)),
        ]
        quiet = Signal(32)
        with m.If(moved | ~outstanding | (self.limit == 0)):
            m.d.sync += quiet.eq(0)
        with m.Elif(~given_up):
            m.d.sync += quiet.eq(quiet + 1)
            with m.If(quiet + 1 == self.limit):
                m.d.sync += [
                    given_up.eq(1), kept.eq(current), quiet.eq(0),
                    held_ar.eq(memory.arvalid), held_aw.eq(memory.awvalid), held_w.eq(memory.wvalid),
                ]
        with m.If(given_up & self.idle & ~outstanding & ~fake & (aw_sent == answered) & (w_sent == answered)):
            m.d.sync += given_up.eq(0)
        return m
