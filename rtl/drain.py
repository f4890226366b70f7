"""From a tile's accumulators to float32 in bank M."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.pe.float_parts import delay
from wordline.rtl.config import Config
from wordline.rtl.float_convert import IntToFloat
from wordline.rtl.float_mul import FloatMul
from wordline.rtl.isa import ROW_SCALES
from wordline.rtl.ports import ReadPort, WritePort

LATENCY = IntToFloat.latency + 2 * FloatMul.latency + 1


def bank_m_port(config: Config) -> WritePort:
    """Bank M is written in granules of `array.drain_lanes` elements."""
    lanes = config.vector.lanes
    return WritePort(exact_log2(config.memory.matmul_floats // lanes), 32 * lanes,
                     lanes // config.array.drain_lanes)


class Drain(wiring.Component):
    """``y = f32(acc) * row_scale * channel_scale``, `array.drain_lanes` columns a cycle, row after row.

    After `start` it takes ``rows * cols / drain_lanes + 1`` cycles until `busy` falls (the accumulators'
    copies may then change), and `LATENCY` more until the last word is written (`idle`).

    Members
    -------
    start, rows, slot, out, out_stride, use_channel : In, taken at start
    row : Out, whose copies `accs` brings, combinational
    accs : In, one accumulator per column
    chunk, channel : Out/In, which columns' channel scales (of this tile) are wanted; one cycle later
    row_scale : ReadPort
    m : WritePort of bank M
    """

    def __init__(self, config: Config):
        a = config.array
        self.config = config
        self.chunks = a.cols // a.drain_lanes
        super().__init__({
            "start": In(1), "rows": In(5), "slot": In(3), "out": In(16), "out_stride": In(16),
            "use_channel": In(1), "busy": Out(1), "idle": Out(1),
            "row": Out(range(max(a.rows, 2))), "accs": In(a.cols * a.acc_bits),
            "chunk": Out(range(max(self.chunks, 2))), "channel": In(32 * a.drain_lanes),
            "row_scale": Out(ReadPort(exact_log2(ROW_SCALES), 32)),
            "m": Out(bank_m_port(config)),
        })

    def elaborate(self, platform):
        m = Module()
        a, lanes = self.config.array, self.config.vector.lanes
        width = a.drain_lanes * a.acc_bits
        shift = Signal(a.cols * a.acc_bits)
        row, chunk, rows = Signal(5), Signal(range(max(self.chunks, 2))), Signal(5)
        slot, stride, use_channel = Signal(3), Signal(16), Signal()
        row_base, word = Signal(16), Signal(16)
        loading, moving = Signal(), Signal()
        # A row's copies are loaded while the last chunk of the row before it leaves.
        last_chunk = chunk == self.chunks - 1
        m.d.comb += [
            self.busy.eq(loading | moving), self.row.eq(Mux(loading, 0, row + 1)),
            self.chunk.eq(chunk), self.row_scale.addr.eq(Cat(row[:4], slot)),
        ]
        with m.If(self.start):
            m.d.sync += [loading.eq(1), rows.eq(self.rows), slot.eq(self.slot), stride.eq(self.out_stride),
                         row_base.eq(self.out), use_channel.eq(self.use_channel)]
        with m.If(loading):
            m.d.sync += [loading.eq(0), moving.eq(1), row.eq(0), chunk.eq(0), shift.eq(self.accs)]
        with m.If(moving):
            m.d.sync += [shift.eq(shift[width:]), chunk.eq(chunk + 1)]
            with m.If(last_chunk):
                m.d.sync += [chunk.eq(0), row.eq(row + 1), row_base.eq(row_base + stride),
                             shift.eq(self.accs)]
                with m.If(row + 1 == rows):
                    m.d.sync += moving.eq(0)
        # Word and granule of the chunk.
        per_word = lanes // a.drain_lanes
        low = exact_log2(per_word)
        m.d.comb += word.eq(row_base + (chunk >> low))
        granule = Signal(per_word)
        m.d.comb += granule.eq(moving << (chunk[:low] if low else 0))

        scale = Signal(32)
        m.d.comb += scale.eq(self.row_scale.data)
        total = IntToFloat.latency + 2 * FloatMul.latency
        results = []
        for i in range(a.drain_lanes):
            convert, by_row, by_channel = IntToFloat(a.acc_bits), FloatMul(), FloatMul()
            m.submodules += [convert, by_row, by_channel]
            m.d.comb += [
                convert.a.eq(shift[i * a.acc_bits : (i + 1) * a.acc_bits]),
                by_row.a.eq(convert.o), by_row.b.eq(delay(m, scale, IntToFloat.latency - 1, "scale")),
                by_channel.a.eq(by_row.o),
                by_channel.b.eq(delay(m, self.channel.word_select(i, 32),
                                      IntToFloat.latency + FloatMul.latency - 1, "channel")),
            ]
            results.append(Mux(use_channel, by_channel.o, delay(m, by_row.o, FloatMul.latency, "plain")))
        out, enable, address = Signal(32 * a.drain_lanes), Signal(per_word), Signal(16)
        m.d.sync += [out.eq(Cat(results)), enable.eq(delay(m, granule, total, "granule")),
                     address.eq(delay(m, word, total, "word"))]
        m.d.comb += [self.m.data.eq(out.replicate(per_word)), self.m.en.eq(enable),
                     self.m.addr.eq(address)]
        pending = Signal(range(LATENCY + 1))
        with m.If(self.busy | self.start):
            m.d.sync += pending.eq(LATENCY)
        with m.Elif(pending != 0):
            m.d.sync += pending.eq(pending - 1)
        m.d.comb += self.idle.eq(~self.busy & (pending == 0))
        return m
