"""LOAD: small things from DRAM: vectors into bank L, a word into a register, the program at boot."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from wordline.rtl.config import Config
from wordline.rtl.float_convert import int8_to_float
from wordline.rtl.isa import INSTRUCTION_BITS, REGISTER_BITS, LoadFormat, LoadInstruction
from wordline.rtl.ports import UnitPort, WritePort
from wordline.rtl.read_port import RunReader, beat_layout, request_layout

FIFO_BEATS = 128


class LoadUnit(wiring.Component):
    """Reads `count` elements, widens them to float32 and writes words of bank L.

    Elements pass in chunks, one a cycle: as many as fill a word or as a beat holds, whichever is fewer.
    The last word is filled up with zeros.

    Members
    -------
    port : UnitPort
    requests, beats : to the read arbiter
    l : WritePort of bank L
    program : WritePort of the program memory
    register_write, register_number, register_value : result of LoadFormat.REGISTER, held until
        register_taken
    """

    def __init__(self, config: Config):
        self.bus = config.bus
        self.bits, self.address_bits = config.bus.data_bits, config.bus.address_bits
        self.lanes = config.vector.lanes
        super().__init__({
            "port": Out(UnitPort(LoadInstruction)),
            "requests": Out(stream.Signature(request_layout(self.address_bits))),
            "beats": In(wiring.Signature({"valid": Out(1), "payload": Out(beat_layout(self.bits))})),
            "l": Out(WritePort(exact_log2(config.memory.load_floats // self.lanes), 32 * self.lanes)),
            "program": Out(WritePort(exact_log2(config.memory.program), INSTRUCTION_BITS)),
            "register_write": Out(1),
            "register_number": Out(4),
            "register_value": Out(REGISTER_BITS),
            "register_taken": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        beat_bytes = self.bits // 8
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=self.bits, depth=FIFO_BEATS)
        m.submodules.reader = reader = RunReader(self.bus, room_bits=range(FIFO_BEATS + 1))
        connect(m, reader.requests, flipped(self.requests))
        room = Signal(range(FIFO_BEATS + 1), init=FIFO_BEATS)
        m.d.comb += [
            fifo.w_data.eq(self.beats.payload.data),
            fifo.w_en.eq(self.beats.valid),
            reader.room.eq(room),
        ]
        m.d.sync += room.eq(room - reader.asked + (fifo.r_en & fifo.r_rdy))

        instruction = Signal.like(self.port.instruction.payload)
        error = Signal()
        with m.If(self.beats.valid & self.beats.payload.error):
            m.d.sync += error.eq(1)

        # Per format: element bytes, elements in a word, elements in a chunk.
        words = {LoadFormat.F32: (4, self.lanes), LoadFormat.BF16: (2, self.lanes),
                 LoadFormat.INT8: (1, self.lanes), LoadFormat.PROGRAM: (INSTRUCTION_BITS // 8, 1)}
        beats = Signal(28)
        low = exact_log2(beat_bytes)
        with m.Switch(instruction.element):
            for fmt, (size, _) in words.items():
                with m.Case(fmt):
                    m.d.comb += beats.eq((instruction.count.imm * size + beat_bytes - 1) >> low)
            with m.Default():
                m.d.comb += beats.eq(1)
        m.d.comb += [
            reader.runs.payload.address.eq(Cat(Const(0, low), instruction.address.imm[low:])),
            reader.runs.payload.beats.eq(beats),
        ]

        buffer, chunks = Signal(self.bits), Signal(range(beat_bytes + 1))  # what is left of a beat
        left = Signal(16)
        filled = Signal(range(max(self.lanes, INSTRUCTION_BITS // 8) + 1))  # chunks in the word so far
        word_bits = max(32 * self.lanes, INSTRUCTION_BITS)
        word, word_next = Signal(word_bits), Signal(word_bits)
        address = Signal(16)
        write = Signal()
        m.d.comb += [
            self.l.addr.eq(address), self.program.addr.eq(address),
        ]
        # The word is written from its register, one cycle after its last chunk.
        m.d.sync += write.eq(0)
        with m.If(write):
            m.d.sync += address.eq(address + 1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.port.instruction.ready.eq(1)
                m.d.sync += [instruction.eq(self.port.instruction.payload), error.eq(0)]
                with m.If(self.port.instruction.valid):
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.sync += [left.eq(instruction.count.imm), address.eq(instruction.dst.imm),
                             chunks.eq(0), filled.eq(0)]
                m.d.comb += reader.runs.valid.eq(beats != 0)
                with m.If(beats == 0):
                    m.next = "FINISH"
                with m.Elif(reader.runs.ready):
                    m.next = "MOVE"
                    with m.If(instruction.element == LoadFormat.REGISTER):
                        m.next = "REGISTER"
            with m.State("MOVE"):
                with m.If((chunks == 0) & (left != 0)):
                    m.d.comb += fifo.r_en.eq(1)
                    m.d.sync += buffer.eq(fifo.r_data)
                    with m.If(fifo.r_rdy):
                        with m.Switch(instruction.element):
                            for fmt, (size, count) in words.items():
                                with m.Case(fmt):
                                    m.d.sync += chunks.eq(max(1, beat_bytes // (size * count)))
                with m.Else():
                    with m.Switch(instruction.element):
                        for fmt, (size, count) in words.items():
                            with m.Case(fmt):
                                self._chunk(m, fmt, size, count, buffer, left, filled, word, word_next,
                                            write, chunks)
            with m.State("REGISTER"):
                m.d.comb += fifo.r_en.eq(1)
                pieces = Array(fifo.r_data.word_select(i, 32) for i in range(beat_bytes // 4))
                index = instruction.address.imm[2:low] if low > 2 else 0
                m.d.sync += buffer.eq(pieces[index])
                with m.If(fifo.r_rdy):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.register_write.eq(1)
                with m.If(self.register_taken):
                    m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(~write):
                    m.d.comb += [self.port.done.eq(1), self.port.error.eq(error)]
                    m.next = "IDLE"
        m.d.comb += [
            self.register_number.eq(instruction.register),
            self.register_value.eq(buffer[:32]),
            self.l.data.eq(word), self.program.data.eq(word),
            self.l.en.eq(write & (instruction.element != LoadFormat.PROGRAM)),
            self.program.en.eq(write & (instruction.element == LoadFormat.PROGRAM)),
        ]
        return m

    def _chunk(self, m, fmt, size, count, buffer, left, filled, word, word_next, write, chunks):
        """One chunk from the buffer into the word; past the end, zeros."""
        beat_bytes = self.bits // 8
        program = fmt == LoadFormat.PROGRAM
        elements = max(1, min(count, beat_bytes // size))
        per_word = max(1, count * size // beat_bytes)  # chunks that fill a word
        if program:
            bits = min(INSTRUCTION_BITS, self.bits)
            chunk, total = buffer[:bits], INSTRUCTION_BITS
        else:
            parts = []
            for i in range(elements):
                raw = buffer[8 * size * i : 8 * size * (i + 1)]
                if fmt == LoadFormat.BF16:
                    raw = Cat(Const(0, 16), raw)
                elif fmt == LoadFormat.INT8:
                    raw = int8_to_float(raw, m, f"int8_{i}")
                parts.append(Mux(left > i, raw, 0))
            chunk, total = Cat(parts), 32 * self.lanes
        shifted = Cat(word[:total], chunk)[len(chunk) : len(chunk) + total]
        used = 1 if program else elements
        m.d.comb += word_next.eq(shifted)
        m.d.sync += [word.eq(word_next), buffer.eq(buffer[8 * size * elements :]), filled.eq(filled + 1)]
        with m.If(left != 0):
            m.d.sync += chunks.eq(chunks - 1)
        end = Signal(name=f"end_{fmt.name}")
        m.d.comb += end.eq(filled == per_word - 1)
        after = Signal(16, name=f"after_{fmt.name}")
        if program:
            m.d.comb += after.eq(left - end)
        else:
            m.d.comb += after.eq(Mux(left > used, left - used, 0))
        m.d.sync += left.eq(after)
        with m.If(end):
            m.d.sync += [filled.eq(0), write.eq(1)]
            with m.If(after == 0):
                m.next = "FINISH"
