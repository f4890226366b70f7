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


class StepSignature(wiring.Signature):
    """A stream of steps, plane by plane: in one payload a large array's would be more bits than an Amaranth value has
    (65,536)."""

    def __init__(self, plane_bits: int):
        super().__init__({"valid": Out(1), "ready": In(1), "planes": Out(plane_bits).array(MAX_PLANES)})


class Gearbox(wiring.Component):
    """Collects `planes` bit planes of `plane_bits` into a step; a beat a cycle, a step a cycle if beats suffice.

    At `start`, `total` planes belong to the section that follows; padding behind them in the last beat is
    dropped. In ``steps.planes`` those above `planes` are stale.

    Members
    -------
    start, total, planes : In, a section begins (no beat may come in this cycle); `planes` is held constant
    whole : a step is a whole number of beats for all `planes` there will be, though a beat is wider than a plane
    beats : In(stream), ready while planes of the section are missing
    steps : Out(StepSignature)
    drained : Out, every beat of the section has been taken
    """

    def __init__(self, *, beat_bits: int, plane_bits: int, whole: bool = False):
        self.beat_bits, self.plane_bits, self.whole = beat_bits, plane_bits, whole or beat_bits <= plane_bits
        super().__init__({
            "start": In(1), "total": In(20), "planes": In(4),
            "beats": In(stream.Signature(beat_bits)),
            "steps": Out(StepSignature(plane_bits)),
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
        gather = [Signal(self.beat_bits, name=f"gather_{i}") for i in range(slots)]
        full, free = Signal(), Signal()
        m.d.comb += [
            full.eq(slot == in_beats(self.planes)),
            free.eq(~steps.valid | steps.ready),
            beats.ready.eq((missing != 0) & (~full | free) & ~self.start),
            self.drained.eq(missing == 0),
        ]
        with m.If(free):
            m.d.sync += steps.valid.eq(full & (self.planes != 0))
            m.d.sync += [plane.eq(Cat(gather).word_select(p, self.plane_bits)) for p, plane in enumerate(steps.planes)]
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
                        m.d.sync += gather[i].eq(beats.payload)
        with m.If(self.start):
            m.d.sync += [missing.eq(in_beats(self.total)), slot.eq(0)]

    def _shift(self, m: Module, parts: int) -> None:
        """A beat brings `parts` planes: a shift register with a variable fill."""
        steps, beats, width = self.steps, self.beats, self.plane_bits
        room = MAX_PLANES + parts
        missing, expected = Signal(20), Signal(20)  # planes to come, planes not yet in a step
        fill = Signal(range(room + 1))
        store, shifted, merged = (
            [Signal(width, name=f"{name}_{k}") for k in range(room)] for name in ("store", "shifted", "merged"))
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
            m.d.sync += [steps.valid.eq(emit), *(plane.eq(store[p]) for p, plane in enumerate(steps.planes))]
        m.d.comb += [shifted[k].eq(store[k]) for k in range(room)]
        with m.If(emit):
            with m.Switch(self.planes):
                for planes in range(1, MAX_PLANES + 1):
                    with m.Case(planes):
                        m.d.comb += [shifted[k].eq(store[k + planes] if k + planes < room else 0)
                                     for k in range(room)]
            m.d.sync += expected.eq(expected - self.planes)
        m.d.comb += [merged[k].eq(shifted[k]) for k in range(room)]
        with m.If(moved):
            with m.Switch(after):
                for i in range(MAX_PLANES + 1):
                    with m.Case(i):
                        m.d.comb += [merged[i + k].eq(beats.payload.word_select(k, width)) for k in range(parts)]
            m.d.sync += missing.eq(Mux(missing > parts, missing - parts, 0))
        m.d.sync += [*(old.eq(new) for old, new in zip(store, merged)), fill.eq(after + Mux(moved, parts, 0))]
        with m.If(self.start):
            m.d.sync += [missing.eq(self.total), expected.eq(self.total), fill.eq(0)]
