"""A memory that is filled beat after beat and read in words of another width."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2


class BeatMemory(wiring.Component):
    """Written in beats of `beat_bits`, read in words of `word_bits`, both powers of two.

    ``data`` is word `address` one cycle after the address was given; word 0 begins in beat 0.
    """

    def __init__(self, *, beat_bits: int, word_bits: int, beats: int):
        self.beat_bits, self.word_bits, self.beats = beat_bits, word_bits, beats
        self.address_bits = max(1, exact_log2(max(2, beats * beat_bits // word_bits)))
        super().__init__({
            "write": In(1), "write_address": In(exact_log2(beats)), "write_data": In(beat_bits),
            "address": In(self.address_bits), "data": Out(word_bits),
        })

    def elaborate(self, platform):
        m = Module()
        width = max(self.beat_bits, self.word_bits)
        depth = max(1, self.beats * self.beat_bits // width)
        beats_in_row, words_in_row = width // self.beat_bits, width // self.word_bits
        m.submodules.memory = memory = Memory(shape=width, depth=depth, init=[])
        write = memory.write_port(granularity=self.beat_bits)
        read = memory.read_port()
        beat_low, word_low = exact_log2(beats_in_row), exact_log2(words_in_row)
        m.d.comb += [
            write.addr.eq(self.write_address >> beat_low),
            write.data.eq(self.write_data.replicate(beats_in_row)),
            write.en.eq(self.write << (self.write_address[:beat_low] if beat_low else 0)),
            read.addr.eq(self.address >> word_low),
        ]
        if word_low:
            which = Signal(word_low)
            m.d.sync += which.eq(self.address[:word_low])
            m.d.comb += self.data.eq(read.data.word_select(which, self.word_bits))
        else:
            m.d.comb += self.data.eq(read.data)
        return m
