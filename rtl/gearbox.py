"""From beats of the bus to steps of bit planes."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.rtl.config import Config

MAX_PLANES = 8


def whole_beats(config: Config) -> bool:
    """Whether a step of every datatype of the array is a whole number of beats."""
    plane = config.array.cols * config.array.lanes
    return all(WEIGHT_TYPES[name].bits * plane % config.bus.data_bits == 0 for name in config.array.weights)


class Gearbox(wiring.Component):
    """Collects `planes` bit planes of `plane_bits` into a step; a beat a cycle, a step a cycle if beats suffice.

    At `start`, `total` planes belong to the section that follows; padding behind them in the last beat is
    dropped. ``steps.payload`` is planes 0 to 7, those above `planes` stale.

    Members
    -------
    start, total, planes : In, a section begins (no beat may come in this cycle); `planes` is held constant
    whole : a step is a whole number of beats for all `planes` there will be, though a beat is wider than a plane
    beats : In(stream), ready while planes of the section are missing
    steps : Out(stream)
    drained : Out, every beat of the section has been taken
    """

    def __init__(self, *, beat_bits: int, plane_bits: int, whole: bool = False):
        self.beat_bits, self.plane_bits, self.whole = beat_bits, plane_bits, whole or beat_bits <= plane_bits
        super().__init__({
            "start": In(1), "total": In(20), "planes": In(4),
            "beats": In(stream.Signature(beat_bits)),
            "steps": Out(stream.Signature(plane_bits * MAX_PLANES)),
            "drained": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        if self.whole:
            self._gather(m)
        else:
            self._shift(m, self.beat_bits // self.plane_bits)
        return m

    def _gather(self, m: Module) -> None:
        """A step takes whole beats: they are written to their places one after the other."""
        steps, beats = self.steps, self.beats
        slots = MAX_PLANES * self.plane_bits // self.beat_bits

        def in_beats(planes):
            if self.beat_bits <= self.plane_bits:
                return planes * (self.plane_bits // self.beat_bits)
            return planes >> exact_log2(self.beat_bits // self.plane_bits)

        missing = Signal(len(in_beats(self.total)))
        slot = Signal(range(slots + 1))
        gather = Signal(self.plane_bits * MAX_PLANES)
        full, free = Signal(), Signal()
        m.d.comb += [
            full.eq(slot == in_beats(self.planes)),
            free.eq(~steps.valid | steps.ready),
            beats.ready.eq((missing != 0) & (~full | free) & ~self.start),
            self.drained.eq(missing == 0),
        ]
        with m.If(free):
            m.d.sync += [steps.valid.eq(full & (self.planes != 0)), steps.payload.eq(gather)]
        moved = beats.valid & beats.ready
        with m.If(full & free):
            m.d.sync += slot.eq(moved)
        with m.Elif(moved):
            m.d.sync += slot.eq(slot + 1)
        place = Mux(full, 0, slot)
        with m.If(moved):
            m.d.sync += missing.eq(missing - 1)
            with m.Switch(place):
                for i in range(slots):
                    with m.Case(i):
                        m.d.sync += gather.word_select(i, self.beat_bits).eq(beats.payload)
        with m.If(self.start):
            m.d.sync += [missing.eq(in_beats(self.total)), slot.eq(0)]

    def _shift(self, m: Module, parts: int) -> None:
        """A beat brings `parts` planes: a shift register with a variable fill."""
        steps, beats, width = self.steps, self.beats, self.plane_bits
        room = MAX_PLANES + parts
        missing, expected = Signal(20), Signal(20)  # planes to come, planes not yet in a step
        fill = Signal(range(room + 1))
        store = Signal(room * width)
        free, emit, moved = Signal(), Signal(), Signal()
        after = Signal(range(room + 1))
        m.d.comb += [
            free.eq(~steps.valid | steps.ready),
            emit.eq(free & (fill >= self.planes) & (expected != 0)),
            after.eq(Mux(emit, fill - self.planes, fill)),
            beats.ready.eq((missing != 0) & (after <= MAX_PLANES) & ~self.start),
            moved.eq(beats.valid & beats.ready),
            self.drained.eq(missing == 0),
        ]
        with m.If(free):
            m.d.sync += [steps.valid.eq(emit), steps.payload.eq(store)]
        shifted = Signal(room * width)
        m.d.comb += shifted.eq(store)
        with m.If(emit):
            with m.Switch(self.planes):
                for planes in range(1, MAX_PLANES + 1):
                    with m.Case(planes):
                        m.d.comb += shifted.eq(store >> (planes * width))
            m.d.sync += expected.eq(expected - self.planes)
        merged = Signal(room * width)
        m.d.comb += merged.eq(shifted)
        with m.If(moved):
            with m.Switch(after):
                for i in range(MAX_PLANES + 1):
                    with m.Case(i):
                        m.d.comb += merged.eq(Cat(shifted[: i * width], beats.payload))
            m.d.sync += missing.eq(Mux(missing > parts, missing - parts, 0))
        m.d.sync += [store.eq(merged), fill.eq(after + Mux(moved, parts, 0))]
        with m.If(self.start):
            m.d.sync += [missing.eq(self.total), expected.eq(self.total), fill.eq(0)]
