"""A controller for single-data-rate SDRAM chips of 16 bits, behind AXI4.

Rows stay open until another row of their bank is wanted or a refresh is due (open-page policy). Requests are served in
the order in which they come: a beat of 64 bits is a burst of four words, so neighbouring beats of an open row follow
each other without a gap.
"""

import math
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from wordline.rtl.axi import Axi4

WORD, BURST = 16, 4
BEAT = WORD * BURST
#: Beats that have been asked for and that the master has not taken.
ROOM = 32
#: Refreshes before the mode register is set (chips ask for 2 or 8), and clocks after it.
INIT_REFRESHES, tMRD = 8, 2


class Command(enum.Enum, shape=3):
    """RAS, CAS and WE as they are at the pins (active low), RAS the highest bit."""

    MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVATE = 0b011
    WRITE = 0b100
    READ = 0b101
    NOP = 0b111


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """Clocks between commands, and the chip's geometry.

    Parameters
    ----------
    tRCD, tRP, tRAS : ACT to RD or WR; PRE to ACT; ACT to PRE
    tRC, tRRD, tRFC : ACT to ACT of one bank, of two; REF to ACT
    tWR : from the clock after a write's last word to PRE
    CL : RD to its first word
    tREFI : a refresh is due so often
    startup : clocks of nothing before the first command
    row_bits, column_bits, bank_bits : of an address
    """

    tRCD: int
    tRP: int
    tRAS: int
    tRC: int
    tRRD: int
    tRFC: int
    tWR: int
    CL: int
    tREFI: int
    startup: int
    row_bits: int = 13
    column_bits: int = 9
    bank_bits: int = 2

    def __post_init__(self) -> None:
        if self.CL not in (2, 3):
            raise ValueError(f"CL = {self.CL}: SDR SDRAM has 2 or 3")
        # The longest that a refresh can be late must leave time for the next one.
        if self.tREFI < 4 * (self.tRC + self.tRFC + BURST + self.CL):
            raise ValueError(f"tREFI = {self.tREFI} clocks: the clock is too slow for this chip")

    @classmethod
    def at(cls, clock_mhz: float) -> "SdramTiming":
        """The 256 Mbit chips of ULX3S boards, MT48LC16M16 and IS42S16160: of each number the slower chip's.

        tRCD 20, tRP 20, tRAS 44, tRRD 15, tRFC 70, tWR 20 ns, 8192 refreshes in 64 ms: as in LiteDRAM
        litedram/modules.py; tRC = tRAS + tRP. Assumed: 200 us at the start, CL 2 up to 100 MHz.
        """
        def clocks(nanoseconds: float) -> int:
            return math.ceil(nanoseconds * clock_mhz / 1000 - 1e-9)

        return cls(tRCD=clocks(20), tRP=clocks(20), tRAS=clocks(44), tRC=clocks(64), tRRD=clocks(15),
                   tRFC=clocks(70), tWR=clocks(20) - 1, CL=2 if clock_mhz <= 100 else 3,
                   tREFI=int(64e6 / 8192 * clock_mhz / 1000), startup=clocks(200e3))

    @classmethod
    def of(cls, device: Any, *, startup: int) -> "SdramTiming":
        """From a preset of `wordline.sim.dram_devices` with one channel, whose clock is the controller's."""
        words = device.columns * device.burst_bytes // (WORD // 8)
        return cls(tRCD=device.tRCD, tRP=device.tRP, tRAS=device.tRAS, tRC=device.tRC, tRRD=device.tRRD_S,
                   tRFC=device.tRFC, tWR=device.tWR, CL=device.CL, tREFI=device.tREFI, startup=startup,
                   row_bits=(device.rows - 1).bit_length(), column_bits=(words - 1).bit_length(),
                   bank_bits=(device.banks - 1).bit_length())

    @property
    def size(self) -> int:
        """Bytes."""
        return 1 << (self.row_bits + self.bank_bits + self.column_bits + 1)


class SdramPins(wiring.Signature):
    """A chip's pins but for its clock, which is the controller's inverted; `dq_oe`: the controller drives the bus."""

    def __init__(self, timing: SdramTiming):
        super().__init__({
            "cke": Out(1), "command": Out(Command, init=Command.NOP),  # type: ignore[call-arg]
            "ba": Out(timing.bank_bits), "a": Out(timing.row_bits), "dqm": Out(2, init=3),  # type: ignore[call-arg]
            "dq_o": Out(WORD), "dq_oe": Out(1), "dq_i": In(WORD),
        })


class SdramController(wiring.Component):
    """AXI4 slave of 64 bits, INCR bursts of whole beats; answers come in the order of the requests.

    A byte address is row, bank, column, byte, so that a burst which leaves a row finds another bank. The chip's clock
    is inverted: it takes a command in the middle of the cycle in which it is at the pins, and its words are sampled at
    the end of the cycle CL - 1 later.

    Members
    -------
    axi : In(Axi4)
    pins : Out(SdramPins)
    ready : Out, the chip has been initialised; requests wait until then
    """

    def __init__(self, timing: SdramTiming, *, address_bits: int):
        self.timing, self.address_bits = timing, address_bits
        super().__init__({"axi": In(Axi4(data_bits=BEAT, address_bits=address_bits)), "pins": Out(SdramPins(timing)),
                          "ready": Out(1)})

    def elaborate(self, platform):
        m = Module()
        self.request = Signal(data.StructLayout(
            {"valid": 1, "write": 1, "address": self.address_bits, "id": 1, "last": 1}), name="request")
        self.taken = Signal(name="taken")  # the request's RD or WR is issued
        self._front(m)
        self._engine(m)
        return m

    def _front(self, m: Module) -> None:
        """One AXI burst after the other, as a request for each beat."""
        axi, request, taken = self.axi, self.request, self.taken
        reading, writing, turn = Signal(), Signal(), Signal()  # turn: a write goes first next time
        address, left, burst_id = Signal(self.address_bits), Signal(8), Signal()
        credit = Signal(range(ROOM + 1), init=ROOM)
        free = ~reading & ~writing
        take_write = axi.awvalid & ~axi.bvalid & (turn | ~axi.arvalid)
        m.d.comb += [
            axi.awready.eq(free & take_write), axi.arready.eq(free & ~take_write),
            request.valid.eq((reading & (credit != 0)) | (writing & axi.wvalid)), request.write.eq(writing),
            request.address.eq(address), request.id.eq(burst_id), request.last.eq(left == 0),
            axi.wready.eq(writing & taken),
        ]
        with m.If(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(free & take_write):
            m.d.sync += [writing.eq(1), turn.eq(0), address.eq(axi.awaddr), left.eq(axi.awlen), burst_id.eq(axi.awid)]
        with m.Elif(free & axi.arvalid):
            m.d.sync += [reading.eq(1), turn.eq(1), address.eq(axi.araddr), left.eq(axi.arlen), burst_id.eq(axi.arid)]
        with m.If(taken):
            m.d.sync += [address.eq(address + BEAT // 8), left.eq(left - 1)]
            with m.If(left == 0):
                m.d.sync += [reading.eq(0), writing.eq(0)]
                with m.If(writing):  # reads that come later find the new data
                    m.d.sync += [axi.bvalid.eq(1), axi.bid.eq(burst_id)]

        # Words that come back, four to a beat, and beats that wait for the master.
        t = self.timing
        tag = data.StructLayout({"valid": 1, "id": 1, "last": 1})
        stages = [Signal(tag, name=f"stage_{i}") for i in range(t.CL + BURST)]
        m.d.sync += [stages[0].valid.eq(taken & ~request.write), stages[0].id.eq(request.id),
                     stages[0].last.eq(request.last)]
        m.d.sync += [later.eq(earlier) for earlier, later in zip(stages, stages[1:])]
        word, words = Signal(WORD), Signal(WORD * (BURST - 1))
        m.d.sync += [word.eq(self.pins.dq_i), words.eq(Cat(words[WORD:], word))]
        arrived = stages[-1]
        m.submodules.beats = beats = SyncFIFOBuffered(width=BEAT + 2, depth=ROOM)
        took = axi.rvalid & axi.rready
        m.d.comb += [
            beats.w_data.eq(Cat(words, word, arrived.id, arrived.last)), beats.w_en.eq(arrived.valid),
            axi.rvalid.eq(beats.r_rdy), beats.r_en.eq(axi.rready),
            Cat(axi.rdata, axi.rid, axi.rlast).eq(beats.r_data),
        ]
        m.d.sync += credit.eq(credit - (taken & ~request.write) + took)

    def _engine(self, m: Module) -> None:
        """A command a clock: what the request at hand needs next, as soon as every constraint allows it."""
        t, pins, request = self.timing, self.pins, self.request
        banks = 1 << t.bank_bits
        low = BEAT // 8  # bytes of a beat
        byte_bits = (WORD // 8 - 1).bit_length()
        column_end = byte_bits + t.column_bits
        column, bank, row = Signal(t.column_bits), Signal(t.bank_bits), Signal(t.row_bits)
        m.d.comb += [column.eq(request.address[byte_bits:column_end] & ~Const(low // 2 - 1, t.column_bits)),
                     bank.eq(request.address[column_end : column_end + t.bank_bits]),
                     row.eq(request.address[column_end + t.bank_bits :])]

        # Clocks until something is allowed: per bank, and for the data bus.
        longest = max(t.tRC, t.tRAS, t.tRP, t.tRFC, t.CL + BURST + 1, BURST + t.tWR) + 1
        timers: list[Signal] = []

        def timer(name: str) -> Signal:
            timers.append(Signal(range(longest), name=name))
            return timers[-1]

        until_act = [timer(f"until_act_{i}") for i in range(banks)]
        until_pre = [timer(f"until_pre_{i}") for i in range(banks)]
        until_column = [timer(f"until_column_{i}") for i in range(banks)]
        until_any_act, until_read, until_write, pause = (timer(n) for n in ("any_act", "read", "write", "pause"))
        for one in timers:
            m.d.sync += one.eq(Mux(one == 0, 0, one - 1))

        def not_before(one: Signal, clocks: int, condition=1):
            """Assignments come after the countdown and override it: never shorten what is running."""
            with m.If((one <= clocks) & condition):
                m.d.sync += one.eq(max(clocks - 1, 0))

        opened, rows = Signal(banks), Array([Signal(t.row_bits, name=f"row_{i}") for i in range(banks)])
        # Refreshes that are due; at most a few, as each is served before the next column command.
        countdown, due = Signal(range(t.tREFI), init=t.tREFI - 1), Signal(4)
        tick, refreshed = Signal(), Signal()
        m.d.comb += tick.eq(countdown == 0)
        m.d.sync += [countdown.eq(Mux(tick, t.tREFI - 1, countdown - 1)), due.eq(due + tick - refreshed)]

        # Write data follow their command; the mask is of use for writes alone.
        rest, rest_mask, words_left = Signal(BEAT - WORD), Signal(2 * (BURST - 1)), Signal(range(BURST))
        m.d.sync += [pins.command.eq(Command.NOP), pins.cke.eq(1), pins.dqm.eq(0),
                     pins.dq_oe.eq(words_left != 0), pins.dq_o.eq(rest), rest.eq(rest >> WORD)]
        with m.If(words_left != 0):
            m.d.sync += [words_left.eq(words_left - 1), pins.dqm.eq(rest_mask[:2]), rest_mask.eq(rest_mask >> 2)]

        begin, refreshes = Signal(range(t.startup + 1), init=t.startup), Signal(range(INIT_REFRESHES + 1))
        all_columns = 1 << 10  # A10: all banks, of a precharge
        with m.FSM():
            with m.State("STARTUP"):
                m.d.sync += [begin.eq(begin - 1), pins.dqm.eq(3), due.eq(0), refreshes.eq(INIT_REFRESHES)]
                with m.If(begin == 0):
                    m.next = "PRECHARGE"
            with m.State("PRECHARGE"):
                with m.If(Cat(one == 0 for one in until_pre).all()):
                    m.d.sync += [pins.command.eq(Command.PRECHARGE), pins.a.eq(all_columns), opened.eq(0)]
                    not_before(pause, t.tRP)
                    m.next = "REFRESH"
            with m.State("REFRESH"):
                with m.If((pause == 0) & Cat(one == 0 for one in until_act).all()):
                    m.d.sync += [pins.command.eq(Command.REFRESH), refreshes.eq(Mux(refreshes == 0, 0, refreshes - 1))]
                    m.d.comb += refreshed.eq(self.ready)
                    not_before(pause, t.tRFC)
                    m.next = "REFRESHED"
            with m.State("REFRESHED"):
                with m.If(pause == 0):
                    with m.If(refreshes != 0):
                        m.next = "REFRESH"
                    with m.Elif(self.ready):
                        m.next = "RUN"
                    with m.Else():
                        m.next = "MODE"
            with m.State("MODE"):
                m.d.sync += [pins.command.eq(Command.MODE), pins.ba.eq(0), self.ready.eq(1), due.eq(0),
                             pins.a.eq(t.CL << 4 | (BURST - 1).bit_length())]
                not_before(pause, tMRD)
                m.next = "RUN"
            with m.State("RUN"):
                is_open = opened.bit_select(bank, 1)
                hit = is_open & (rows[bank] == row)
                column_free = Mux(request.write, until_write, until_read) == 0
                with m.If(pause != 0):
                    pass
                with m.Elif(due != 0):
                    m.next = "PRECHARGE"
                with m.Elif(request.valid & hit & column_free & (Array(until_column)[bank] == 0)):
                    m.d.comb += self.taken.eq(1)
                    m.d.sync += [pins.command.eq(Mux(request.write, Command.WRITE, Command.READ)),
                                 pins.ba.eq(bank), pins.a.eq(column)]
                    with m.If(request.write):
                        m.d.sync += [
                            pins.dq_o.eq(self.axi.wdata[:WORD]), pins.dqm.eq(~self.axi.wstrb[:2]), pins.dq_oe.eq(1),
                            rest.eq(self.axi.wdata[WORD:]), rest_mask.eq(~self.axi.wstrb[2:]),
                            words_left.eq(BURST - 1),
                        ]
                    not_before(until_read, BURST)
                    # After a read the chip drives the bus to its last word, and a clock passes until we do.
                    not_before(until_write, BURST, request.write)
                    not_before(until_write, t.CL + BURST + 1, ~request.write)
                    for i in range(banks):
                        not_before(until_pre[i], BURST, (bank == i) & ~request.write)
                        not_before(until_pre[i], BURST + t.tWR, (bank == i) & request.write)
                with m.Elif(request.valid & is_open & ~hit & (Array(until_pre)[bank] == 0)):
                    m.d.sync += [pins.command.eq(Command.PRECHARGE), pins.ba.eq(bank), pins.a.eq(0),
                                 opened.bit_select(bank, 1).eq(0)]
                    for i in range(banks):
                        not_before(until_act[i], t.tRP, bank == i)
                with m.Elif(request.valid & ~is_open & (Array(until_act)[bank] == 0) & (until_any_act == 0)):
                    m.d.sync += [pins.command.eq(Command.ACTIVATE), pins.ba.eq(bank), pins.a.eq(row),
                                 opened.bit_select(bank, 1).eq(1), rows[bank].eq(row)]
                    not_before(until_any_act, t.tRRD)
                    for i in range(banks):
                        not_before(until_act[i], t.tRC, bank == i)
                        not_before(until_pre[i], t.tRAS, bank == i)
                        not_before(until_column[i], t.tRCD, bank == i)
