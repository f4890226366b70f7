"""STORE: bank S to DRAM, as words or as scattered bit planes."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.axi import INCR
from wordline.rtl.config import Config
from wordline.rtl.dispatch import IN_FLIGHT
from wordline.rtl.isa import StoreInstruction, StoreMode
from wordline.rtl.ports import ReadPort, UnitPort

#: Beats that are not answered.
OUTSTANDING = 31


class StoreUnit(wiring.Component):
    """Writes single beats with byte strobes, several outstanding. An instruction ends when all its beats are answered;
    the next one is taken as soon as all are on their way.

    WORDS gathers the 32-bit elements that fall into one beat, an element a cycle. PACKED gathers a run of
    `piece` integers, a word of bank S every other cycle, then writes it: a part of a beat, or several beats.
    `piece` is `array.lanes` or `array.cols`.
    """

    def __init__(self, config: Config):
        self.bits, self.address_bits = config.bus.data_bits, config.bus.address_bits
        self.lanes = config.vector.lanes
        self.pieces = sorted({config.array.lanes, config.array.cols})
        super().__init__({
            "port": Out(UnitPort(StoreInstruction)),
            "s": Out(ReadPort(exact_log2(config.memory.store_floats // self.lanes), 32 * self.lanes)),
            "awid": Out(1), "awaddr": Out(self.address_bits), "awlen": Out(8), "awsize": Out(3),
            "awburst": Out(2), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(self.bits), "wstrb": Out(self.bits // 8), "wlast": Out(1),
            "wvalid": Out(1), "wready": In(1),
            "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat_bytes = self.bits // 8
        low = exact_log2(beat_bytes)
        instruction = Signal.like(self.port.instruction.payload)
        error, outstanding = Signal(), Signal(range(OUTSTANDING + 2))

        # One beat at a time: address and data are offered together and may be taken apart.
        offer, free = Signal(), Signal()
        address, beat, strobe = Signal(self.address_bits), Signal(self.bits), Signal(beat_bytes)
        m.d.comb += [
            free.eq((~self.awvalid | self.awready) & (~self.wvalid | self.wready)
                    & (outstanding < OUTSTANDING)),
            self.awsize.eq(low), self.awburst.eq(INCR), self.wlast.eq(1), self.bready.eq(1),
        ]
        m.d.sync += outstanding.eq(outstanding + (offer & free) - self.bvalid)
        with m.If(self.awready):
            m.d.sync += self.awvalid.eq(0)
        with m.If(self.wready):
            m.d.sync += self.wvalid.eq(0)
        with m.If(offer & free):
            m.d.sync += [
                self.awvalid.eq(1), self.wvalid.eq(1),
                self.awaddr.eq(Cat(Const(0, low), address[low:])),
                self.wdata.eq(beat), self.wstrb.eq(strobe),
            ]
        # An instruction has ended when as many beats are answered as all up to it wrote, modulo 2^16.
        m.submodules.totals = totals = SyncFIFO(width=16, depth=IN_FLIGHT)
        written, answered, complete = Signal(16), Signal(16), Signal()
        m.d.comb += [
            complete.eq(totals.r_rdy & ~(answered - totals.r_data)[15]),
            totals.r_en.eq(complete), totals.w_data.eq(written),
            self.port.done.eq(complete), self.port.error.eq(error),
        ]
        m.d.sync += [written.eq(written + (offer & free)), answered.eq(answered + self.bvalid)]
        with m.If(complete):
            m.d.sync += error.eq(0)
        with m.If(self.bvalid & self.bresp[1]):
            m.d.sync += error.eq(1)

        at, left = Signal(self.address_bits), Signal(16)  # next address, elements or runs left
        source, lane = Signal(16), Signal(range(self.lanes))  # next element of bank S
        part, last_part = Signal(range(max(2, 8 * self.pieces[-1] // self.bits))), Signal(init=1)  # beats of a run
        gathered = Signal(8)
        codes = Signal(8 * self.pieces[-1])
        words = Array(self.s.data.word_select(i, 32) for i in range(self.lanes))
        m.d.comb += self.s.addr.eq(source)

        collected, mask = Signal(self.bits), Signal(beat_bytes)  # a beat of words in the making
        position = at[2:low] if low > 2 else Const(0, 1)
        with_word, with_mask = Signal(self.bits), Signal(beat_bytes)
        m.d.comb += [with_word.eq(collected), with_mask.eq(mask)]
        with m.Switch(position):
            for i in range(beat_bytes // 4):
                with m.Case(i):
                    m.d.comb += [with_word.word_select(i, 32).eq(words[lane]),
                                 with_mask.word_select(i, 4).eq(0xF)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.port.instruction.ready.eq(1)
                m.d.sync += instruction.eq(self.port.instruction.payload)
                with m.If(self.port.instruction.valid):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.sync += [
                    at.eq(instruction.address.imm), left.eq(instruction.count.imm),
                    source.eq(instruction.src.imm), lane.eq(0), mask.eq(0), gathered.eq(0), part.eq(0),
                ]
                m.next = "FETCH"
                with m.If(instruction.count.imm == 0):
                    m.next = "END"
            with m.State("FETCH"):  # bank S answers in the next cycle
                m.next = "WORDS"
                with m.If(instruction.mode == StoreMode.PACKED):
                    m.next = "GATHER"

            with m.State("WORDS"):
                ends = (position == beat_bytes // 4 - 1) | (left == 1)
                m.d.comb += [offer.eq(ends), address.eq(at), beat.eq(with_word), strobe.eq(with_mask)]
                with m.If(free | ~ends):
                    m.d.sync += [at.eq(at + 4), left.eq(left - 1), lane.eq(lane + 1),
                                 collected.eq(with_word), mask.eq(Mux(ends, 0, with_mask))]
                    with m.If(left == 1):
                        m.next = "END"
                    with m.Elif(lane == self.lanes - 1):
                        m.d.sync += source.eq(source + 1)
                        m.next = "FETCH"

            with m.State("GATHER"):
                taken = Cat(word[:8] for word in words)
                m.d.sync += [
                    codes.eq(Cat(codes, taken)[len(taken) :]),
                    gathered.eq(gathered + self.lanes), source.eq(source + 1),
                ]
                m.next = "FETCH"
                with m.If(gathered == instruction.piece - self.lanes):
                    m.d.sync += gathered.eq(0)
                    m.next = "PACKED"
            with m.State("PACKED"):
                m.d.comb += [offer.eq(1), address.eq(at)]
                for piece in self.pieces:
                    for bits in (8, 4, 2):
                        with m.If((instruction.piece == piece) & (instruction.bits == bits)):
                            # The gathered codes lie at the top of the shift register.
                            first, size = self.pieces[-1] - piece, piece * bits
                            packed = Cat(codes.word_select(first + i, 8)[:bits] for i in range(piece))
                            if size <= self.bits:
                                m.d.comb += [beat.eq(packed.replicate(self.bits // size)),
                                             strobe.eq(((1 << size // 8) - 1) << at[:low])]
                            else:
                                m.d.comb += [beat.eq(packed.word_select(part, self.bits)), strobe.eq(-1),
                                             last_part.eq(part == size // self.bits - 1)]
                with m.If(free):
                    m.d.sync += [at.eq(at + beat_bytes), part.eq(part + 1)]
                    with m.If(last_part):
                        m.d.sync += [
                            instruction.address.imm.eq(instruction.address.imm + instruction.run_stride),
                            left.eq(left - 1), part.eq(0),
                        ]
                        m.next = "NEXT"
                        with m.If(left == 1):
                            m.next = "END"
            with m.State("NEXT"):
                m.d.sync += at.eq(instruction.address.imm)
                m.next = "GATHER"
            with m.State("END"):
                m.d.comb += totals.w_en.eq(1)
                m.next = "IDLE"
        return m
