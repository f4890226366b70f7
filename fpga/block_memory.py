"""A model's image in block RAM, as the memory behind the accelerator.

A block RAM of the ECP5 has nine bits for every byte, one of them for parity that nobody computes. Here the ninth bits
hold a part of the image too: one read-only region, in which eight rows' ninth bits make up one beat. So 184 block RAMs
hold what would take 207 by bytes alone. The region is what a step reads least of: the embedding, of which a token takes
one row. Blocks that no write ever reaches, most of them, have no write port.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from wordline.rtl.axi import Axi4

BEAT = 8
#: Rows of 72 bits in eight block RAMs of 2048 x 9: the deepest that has ninth bits, so that the fewest are chosen from.
ROWS = 2048
RAMS = 8
ROW_BITS = (ROWS - 1).bit_length()
#: Blocks that lie at one place of the device: a cycle of latency for each such group.
GROUP = 3


@dataclass(frozen=True)
class Layout:
    """Where bytes lie: `region` bytes from `start` on in the ninth bits, everything else in the rows.

    Attributes
    ----------
    size : int
        Bytes of the image.
    blocks : int
        Of `RAMS` block RAMs each.
    written : frozenset[int]
        Blocks that are not read-only.
    """

    size: int
    start: int
    region: int
    blocks: int
    written: frozenset[int] = frozenset()

    @classmethod
    def of(cls, size: int, start: int, region: int, written: Sequence[tuple[int, int]]) -> "Layout":
        """The least number of blocks; as much as fits of the read-only bytes ``start .. start + region``.

        `written` are the ranges of bytes, first and one behind the last, that may be written. Raises ValueError
        where they meet what lies in the ninth bits.
        """
        start, end = -(-start // BEAT) * BEAT, (start + region) // BEAT * BEAT
        blocks = 1
        while True:
            ninth = min(end - start, blocks * ROWS // BEAT * BEAT)
            if size - ninth <= blocks * ROWS * BEAT:
                break
            blocks += 1
        held: set[int] = set()
        for first, behind in written:
            if first < start + ninth and behind > start:
                raise ValueError(f"bytes {first} to {behind} are written, {start} to {start + ninth} are read-only")
            shift = ninth if first >= start + ninth else 0
            held |= set(range((first - shift) // (ROWS * BEAT), (behind - 1 - shift) // (ROWS * BEAT) + 1))
        return cls(size, start, ninth, blocks, frozenset(held))

    def contents(self, image: np.ndarray) -> np.ndarray:
        """Initial words of every block, uint8[blocks, ROWS, 9]: eight bytes and their ninth bits."""
        padded = np.zeros(self.size + BEAT, np.uint8)
        padded[: len(image)] = image
        rows = np.concatenate([padded[: self.start], padded[self.start + self.region : self.size]])
        words = np.zeros((self.blocks * ROWS, 9), np.uint8)
        full = np.zeros(self.blocks * ROWS * BEAT, np.uint8)
        full[: len(rows)] = rows
        words[:, :8] = full.reshape(-1, 8)
        words[: self.region, 8] = padded[self.start : self.start + self.region]
        return words.reshape(self.blocks, ROWS, 9)


class BlockMemory(wiring.Component):
    """AXI4 slave for one master that is always ready for data and answers, and that writes single beats.

    Bursts are answered one after the other, a beat a cycle, a beat of the region every `BEAT` cycles. A write
    reads its row first, to keep the ninth bits. The host's writes go before the bus's.

    Parameters
    ----------
    layout : Layout
    image : uint8[...], the initial contents from address 0 on
    address_bits : int

    Members
    -------
    axi : In(Axi4) of 64 bits
    host : In(stream-like) ``valid``, ``ready``, ``address`` (bytes), ``word`` (32 bits): the host's writes
    wrote, wrote_address, wrote_word : Out, a write of the bus is taken; the 32 bits at its lowest strobe
    """

    def __init__(self, layout: Layout, image: np.ndarray, *, address_bits: int):
        self.layout, self.image, self.address_bits = layout, image, address_bits
        super().__init__({
            "axi": In(Axi4(data_bits=8 * BEAT, address_bits=address_bits)),
            "host": In(wiring.Signature({"valid": Out(1), "ready": In(1), "address": Out(address_bits),
                                         "word": Out(32)})),
            "wrote": Out(1), "wrote_address": Out(address_bits), "wrote_word": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        axi, host, layout = self.axi, self.host, self.layout
        row_bits = (layout.blocks * ROWS - 1).bit_length()
        tag = data.StructLayout({"valid": 1, "region": 1, "end": 1, "write": 1, "id": 1, "last": 1})

        # Reads: one burst at a time, its beats one after the other.
        busy, left, at, burst_id = Signal(), Signal(8), Signal(self.address_bits), Signal()
        part = Signal(range(BEAT))  # of a beat in the region
        in_region, low = Signal(), Signal()
        beat = at >> 3
        m.d.comb += [
            low.eq(beat < layout.start // BEAT),
            in_region.eq(~low & (beat < (layout.start + layout.region) // BEAT)),
        ]

        # Writes: address, word and strobes are kept until the row has been read and written.
        writing, asked = Signal(), Signal()
        write_row, write_data, write_strobe = Signal(row_bits), Signal(64), Signal(8)
        take_bus = Signal()
        m.d.comb += [
            host.ready.eq(~writing),
            take_bus.eq(~writing & ~host.valid & axi.awvalid & axi.wvalid & ~axi.bvalid),
            axi.awready.eq(take_bus), axi.wready.eq(take_bus),
            self.wrote.eq(take_bus),
            self.wrote_address.eq(Cat(Const(0, 2), ~axi.wstrb[:4].any(), axi.awaddr[3:])),
            self.wrote_word.eq(Mux(axi.wstrb[:4].any(), axi.wdata[:32], axi.wdata[32:])),
        ]

        def row_of(address):
            """Row of a beat outside the region."""
            return Mux((address >> 3) < layout.start // BEAT, address >> 3, (address >> 3) - layout.region // BEAT)

        with m.If(host.valid & host.ready):
            m.d.sync += [writing.eq(1), asked.eq(0), write_row.eq(row_of(host.address)),
                         write_data.eq(host.word.replicate(2)),
                         write_strobe.eq(Mux(host.address[2], 0xF0, 0x0F))]
        with m.If(take_bus):
            m.d.sync += [writing.eq(1), asked.eq(0), write_row.eq(row_of(axi.awaddr)),
                         write_data.eq(axi.wdata), write_strobe.eq(axi.wstrb), axi.bid.eq(axi.awid)]
        bus_write = Signal()
        with m.If(host.valid & host.ready):
            m.d.sync += bus_write.eq(0)
        with m.Elif(take_bus):
            m.d.sync += bus_write.eq(1)

        # What goes into the pipeline: the row of a write first, else the next of the burst.
        row, entry = Signal(row_bits), Signal(tag)
        final = left == 0
        moves = Signal()
        with m.If(writing & ~asked):
            m.d.sync += [asked.eq(1), row.eq(write_row), entry.eq(0), entry.valid.eq(1), entry.write.eq(1)]
        with m.Elif(busy):
            m.d.sync += [
                row.eq(Mux(in_region, Cat(part, (beat - layout.start // BEAT)),
                           Mux(low, beat, beat - layout.region // BEAT))),
                entry.valid.eq(1), entry.region.eq(in_region), entry.write.eq(0), entry.id.eq(burst_id),
                entry.end.eq(part == BEAT - 1), entry.last.eq(final),
            ]
            m.d.comb += moves.eq(~in_region | (part == BEAT - 1))
            m.d.sync += part.eq(Mux(in_region, part + 1, 0))
        with m.Else():
            m.d.sync += entry.eq(0)
        m.d.comb += axi.arready.eq(~busy | (moves & final))
        with m.If(moves):
            m.d.sync += [at.eq(at + BEAT), left.eq(left - 1), busy.eq(~final)]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [busy.eq(1), at.eq(axi.araddr), left.eq(axi.arlen), burst_id.eq(axi.arid), part.eq(0)]

        # Rows and writes pass from group to group, and with them the word that was chosen so far: a register that
        # reached every block RAM of the device would need a cycle for its wires alone.
        words = layout.contents(self.image)
        put = Signal(put_layout := data.StructLayout({
            "valid": 1, "block": range(layout.blocks), "row": ROW_BITS, "enable": 8, "data": 72}))
        groups = [range(first, min(first + GROUP, layout.blocks)) for first in range(0, layout.blocks, GROUP)]
        asked_row, write_here, word = row, put, Const(0, 72)
        for number, group in enumerate(groups):
            which, chosen = Signal(row_bits - ROW_BITS, name=f"which_{number}"), Signal(72, name=f"word_{number}")
            m.d.sync += [which.eq(asked_row[ROW_BITS:]), chosen.eq(word)]
            for i in group:
                init = [int.from_bytes(_nine(row_word), "little") for row_word in words[i]]
                m.submodules[f"block_{i}"] = block = Memory(shape=72, depth=ROWS, init=init)
                read = block.read_port()
                m.d.comb += read.addr.eq(asked_row[:ROW_BITS])
                with m.If(which == i):
                    m.d.sync += chosen.eq(read.data)
                if i in layout.written:
                    write = block.write_port(granularity=9)
                    m.d.comb += [
                        write.addr.eq(write_here.row), write.data.eq(write_here.data),
                        write.en.eq(write_here.enable & (write_here.valid & (write_here.block == i)).replicate(8)),
                    ]
            next_row, next_write = Signal(row_bits, name=f"row_{number}"), Signal(put_layout, name=f"put_{number}")
            m.d.sync += [next_row.eq(asked_row), next_write.eq(write_here)]
            asked_row, write_here, word = next_row, next_write, chosen
        out = entry
        for stage in range(len(groups) + 1):
            later = Signal(tag, name=f"tag_{stage}")
            m.d.sync += later.eq(out)
            out = later

        # Out of the pipeline.
        gathered = Signal(64)
        bytes_ = Cat(word[9 * i : 9 * i + 8] for i in range(8))
        ninth = Cat(word[9 * i + 8] for i in range(8))
        whole = Cat(gathered[8:], ninth)
        m.d.sync += axi.rvalid.eq(0)
        with m.If(out.valid & ~out.write):
            m.d.sync += [
                gathered.eq(whole), axi.rvalid.eq(~out.region | out.end),
                axi.rdata.eq(Mux(out.region, whole, bytes_)),
                axi.rid.eq(out.id), axi.rlast.eq(out.last),
            ]
        m.d.sync += [
            put.valid.eq(out.valid & out.write), put.block.eq(write_row[ROW_BITS:]), put.row.eq(write_row[:ROW_BITS]),
            put.enable.eq(write_strobe),
            put.data.eq(Cat(Cat(write_data[8 * i : 8 * i + 8], ninth[i]) for i in range(8))),
        ]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(put.valid):
            m.d.sync += writing.eq(0)
            with m.If(bus_write):
                m.d.sync += axi.bvalid.eq(1)
        return m


def _nine(word: np.ndarray) -> bytes:
    """Eight bytes and the byte of their ninth bits as 72 bits, ninth bit i above byte i."""
    value = 0
    for i in range(8):
        value |= (int(word[i]) | (int(word[8]) >> i & 1) << 8) << 9 * i
    return value.to_bytes(9, "little")
