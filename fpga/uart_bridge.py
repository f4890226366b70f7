"""Memory and control registers over a serial port: what a computer needs to run an accelerator that has no other bus.

Frames, numbers little-endian; a header is an opcode, two words of 32 bits and the CRC-32 (zlib's) of these nine bytes:

======  =======  ======  ==========================================================
opcode  word 1   word 2  what follows
======  =======  ======  ==========================================================
``W``   address  bytes   data and their CRC-32; then the answer
``R``   address  bytes   the answer, data and their CRC-32
``w``   offset   value   the answer; a control register is written
``r``   offset   0       the answer, the register's value and its CRC-32
======  =======  ======  ==========================================================

Answers: ``K``, done; ``E``, the checksum is wrong (data of ``W`` may be in memory all the same); ``B``, a program
runs and has the memory (``W`` takes its data all the same). Addresses and lengths are multiples of 8. A frame that does
not go on for `SILENCE` clocks is forgotten; after a wrong header, whose length is unknown, everything up to such a
pause is, and then comes the ``E``. So a computer can always begin anew. The other side: `fpga.uart_link`.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from wordline.rtl.axi import INCR, Axi4, AxiLite

POLYNOMIAL = 0xEDB88320
SILENCE = 1 << 22
DATA_BITS = 64


def crc_step(crc: Value, byte: Value) -> Value:
    """CRC-32 after one more byte (without the inversions at begin and end)."""
    value = crc ^ byte
    for _ in range(8):
        value = (value >> 1) ^ Mux(value[0], POLYNOMIAL, 0)
    return value[:32]


class UartBridge(wiring.Component):
    """Reads and writes for a computer at a serial port.

    Members
    -------
    received, received_valid : In, bytes
    ready : Out, a byte may come; one that comes all the same is lost, so that a serial port, which cannot wait, must be
        slower than memory: a write in the time of eight bytes
    sent : Out(stream of 8 bits); sent_last : Out, with the last byte of an answer
    memory : Out(Axi4) of 64 bits, single beats, one at a time
    control : Out(AxiLite)
    running : In, the memory belongs to a program
    """

    def __init__(self, *, address_bits: int, silence: int = SILENCE):
        self.address_bits, self.silence = address_bits, silence
        super().__init__({
            "received": In(8), "received_valid": In(1), "ready": Out(1),
            "sent": Out(stream.Signature(8)), "sent_last": Out(1),
            "memory": Out(Axi4(data_bits=DATA_BITS, address_bits=address_bits)), "control": Out(AxiLite()),
            "running": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        memory, control = self.memory, self.control
        arrives, byte = self.received_valid, self.received
        header = Array(Signal(8, name=f"header_{i}") for i in range(13))
        opcode, address, value = header[0], Cat(*header[1:5]), Cat(*header[5:9])
        at, left = Signal(self.address_bits), Signal(32)
        crc, count, answer = Signal(32, init=0xFFFFFFFF), Signal(range(13)), Signal(8)
        word, silent, refused = Signal(DATA_BITS), Signal(range(self.silence)), Signal()
        # A write of memory: what and where, its address and data are still offered, it is not answered.
        store, to, pending, strobe, busy = Signal(DATA_BITS), Signal(self.address_bits), Signal(), Signal(), Signal()
        m.d.comb += [
            memory.awaddr.eq(to), memory.awsize.eq(3), memory.awburst.eq(INCR), memory.wdata.eq(store),
            memory.wstrb.eq(0xFF), memory.wlast.eq(1), memory.bready.eq(1),
            memory.araddr.eq(at), memory.arsize.eq(3), memory.arburst.eq(INCR), memory.rready.eq(1),
            control.awaddr.eq(address), control.wdata.eq(value), control.wstrb.eq(0xF), control.bready.eq(1),
            control.araddr.eq(address), control.rready.eq(1),
            memory.awvalid.eq(pending), memory.wvalid.eq(strobe),
        ]
        with m.If(memory.awready):
            m.d.sync += pending.eq(0)
        with m.If(memory.wready):
            m.d.sync += strobe.eq(0)
        with m.If(memory.bvalid):
            m.d.sync += busy.eq(0)
        with m.If(control.awready):
            m.d.sync += control.awvalid.eq(0)
        with m.If(control.wready):
            m.d.sync += control.wvalid.eq(0)

        def restart():
            m.d.sync += [crc.eq(0xFFFFFFFF), count.eq(0)]

        def take(into):
            """The next of a word's bytes, lowest first."""
            m.d.sync += [into.eq(Cat(into[8:], byte)), crc.eq(crc_step(crc, byte)), count.eq(count + 1)]

        checksum = ~crc
        out, outs, crc_next = Signal(DATA_BITS), Signal(range(9)), Signal()  # bytes that go out
        m.d.comb += [self.sent.payload.eq(out), self.sent.valid.eq(outs != 0)]
        with m.If(self.sent.valid & self.sent.ready):
            m.d.sync += [out.eq(out >> 8), outs.eq(outs - 1)]
            with m.If(~crc_next):
                m.d.sync += crc.eq(crc_step(crc, out[:8]))

        def say(what, count):
            m.d.sync += [out.eq(what), outs.eq(count)]

        pause = silent == self.silence - 1
        m.d.sync += silent.eq(Mux(arrives | pause, 0, silent + 1))
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += [crc_next.eq(1), refused.eq(0)]
                with m.If(arrives):
                    m.d.sync += [header[count].eq(byte), count.eq(count + 1)]
                    with m.If(count < 9):
                        m.d.sync += crc.eq(crc_step(crc, byte))
                    with m.If(count == 12):
                        m.next = "CHECK"
                with m.Elif(pause):
                    restart()
            with m.State("CHECK"):
                restart()
                m.d.sync += [answer.eq(ord("K")), at.eq(address), left.eq(value)]
                with m.If(Cat(*header[9:13]) != checksum):
                    m.d.sync += answer.eq(ord("E"))
                    m.next = "LOST"
                with m.Elif(opcode == ord("W")):
                    m.d.sync += refused.eq(self.running)
                    m.next = "DATA"
                with m.Elif(opcode == ord("R")):
                    m.next = "ANSWER"
                    with m.If(self.running):
                        m.d.sync += answer.eq(ord("B"))
                with m.Elif(opcode == ord("w")):
                    m.d.sync += [control.awvalid.eq(1), control.wvalid.eq(1)]
                    m.next = "REGISTER"
                with m.Elif(opcode == ord("r")):
                    m.next = "ANSWER"
                with m.Else():
                    m.d.sync += answer.eq(ord("E"))
                    m.next = "ANSWER"

            with m.State("LOST"):
                m.d.comb += self.ready.eq(1)
                with m.If(pause & ~arrives):
                    m.next = "ANSWER"

            with m.State("DATA"):
                m.d.comb += self.ready.eq((left != 0) & ~((count == 7) & busy))
                with m.If(left == 0):
                    m.next = "CHECKSUM"
                with m.Elif(arrives):
                    take(word)
                    m.d.sync += left.eq(left - 1)
                    with m.If(count == 7):
                        m.d.sync += [
                            count.eq(0), store.eq(Cat(word[8:], byte)), to.eq(at), at.eq(at + DATA_BITS // 8),
                            pending.eq(~refused), strobe.eq(~refused), busy.eq(~refused),
                        ]
                with m.Elif(pause):
                    restart()
                    m.next = "HEADER"
            with m.State("CHECKSUM"):
                m.d.comb += self.ready.eq(1)
                with m.If(arrives):
                    m.d.sync += [word.eq(Cat(word[8:], byte)), count.eq(count + 1)]
                    with m.If(count == 3):
                        m.d.sync += answer.eq(Mux(Cat(word[40:], byte) != checksum, ord("E"),
                                                  Mux(refused, ord("B"), ord("K"))))
                        m.next = "ANSWER"
                with m.Elif(pause):
                    restart()
                    m.next = "HEADER"

            with m.State("REGISTER"):
                with m.If(control.bvalid):
                    m.next = "ANSWER"

            with m.State("ANSWER"):
                m.d.sync += crc_next.eq(1)
                with m.If(~busy):
                    say(answer, 1)
                    m.next = "ANSWERED"
            with m.State("ANSWERED"):
                more = (answer == ord("K")) & ((opcode == ord("R")) | (opcode == ord("r")))
                m.d.comb += self.sent_last.eq(~more)
                with m.If(outs == 0):
                    restart()
                    m.d.sync += crc_next.eq(0)
                    m.next = "HEADER"
                    with m.If(answer == ord("K")):
                        with m.If(opcode == ord("R")):
                            m.next = "NEXT"
                        with m.If(opcode == ord("r")):
                            m.next = "ASK_REGISTER"
            with m.State("ASK_REGISTER"):
                m.d.comb += control.arvalid.eq(1)
                with m.If(control.arready):
                    m.next = "HAVE_REGISTER"
            with m.State("HAVE_REGISTER"):
                with m.If(control.rvalid):
                    say(control.rdata, 4)
                    m.d.sync += left.eq(0)
                    m.next = "SENDING"
            with m.State("NEXT"):
                m.next = "ASK"
                with m.If(left == 0):
                    m.next = "SEND_CHECKSUM"
            with m.State("ASK"):
                m.d.comb += memory.arvalid.eq(1)
                with m.If(memory.arready):
                    m.next = "HAVE"
            with m.State("HAVE"):
                with m.If(memory.rvalid):
                    say(memory.rdata, 8)
                    m.d.sync += [left.eq(left - DATA_BITS // 8), at.eq(at + DATA_BITS // 8)]
                    m.next = "SENDING"
            with m.State("SENDING"):
                with m.If(outs == 0):
                    m.next = "NEXT"
            with m.State("SEND_CHECKSUM"):
                say(checksum, 4)
                m.d.sync += crc_next.eq(1)
                m.next = "LAST"
            with m.State("LAST"):
                m.d.comb += self.sent_last.eq(outs == 1)
                with m.If(outs == 0):
                    restart()
                    m.next = "HEADER"
        return m


class MemoryShare(wiring.Component):
    """One AXI4 slave for an accelerator and a bridge, in turn: it changes hands when nothing is under way.

    Members
    -------
    accelerator, bridge : In(Axi4); slave : Out(Axi4)
    running : In, whose turn it is: the accelerator's
    """

    def __init__(self, *, address_bits: int):
        bus = Axi4(data_bits=DATA_BITS, address_bits=address_bits)
        super().__init__({"accelerator": In(bus), "bridge": In(bus), "slave": Out(bus), "running": In(1)})

    def elaborate(self, platform):
        m = Module()
        slave = self.slave
        mine, reads, writes = Signal(), Signal(8), Signal(8)  # the accelerator has it; bursts under way
        m.d.sync += [
            reads.eq(reads + (slave.arvalid & slave.arready) - (slave.rvalid & slave.rready & slave.rlast)),
            writes.eq(writes + (slave.awvalid & slave.awready) - (slave.bvalid & slave.bready)),
        ]
        quiet = (reads == 0) & (writes == 0) & ~slave.arvalid & ~slave.awvalid & ~slave.wvalid
        with m.If(quiet):
            m.d.sync += mine.eq(self.running)
        for name, member in slave.signature.members.items():
            ours, one, other = getattr(slave, name), getattr(self.accelerator, name), getattr(self.bridge, name)
            if member.flow == Out:
                m.d.comb += ours.eq(Mux(mine, one, other))
            elif name in ("arready", "awready", "wready", "rvalid", "bvalid"):
                m.d.comb += [one.eq(ours & mine), other.eq(ours & ~mine)]
            else:
                m.d.comb += [one.eq(ours), other.eq(ours)]
        return m
