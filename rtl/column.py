"""One column of the array: PEs of one output channel, group dequantisation, accumulators."""

from typing import Any

from amaranth.hdl import Array, ClockSignal, Instance, Module, Mux, ResetSignal, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.datatypes import WEIGHT_TYPES, AuxKind, WeightKind
from wordline.pe.dequant import GroupDequant, bits_per_cycle, dequant_latency
from wordline.pe.family import Front, PeColumn, dot_bits, family, signed_bits
from wordline.rtl.config import Config


class ColumnPlan:
    """Widths and rates that follow from a configuration; shared by column, front end and compiler."""

    def __init__(self, config: Config):
        a = config.array
        self.config = config
        types = [WEIGHT_TYPES[name] for name in a.weights]
        self.kinds = frozenset(t.kind for t in types)
        self.trits = any(t.trits for t in types)
        #: Widths of the codes that may come whole, not as planes.
        self.whole_codes = sorted({t.bits for t in types if t.bits in (2, 4, 8) and not t.trits})
        self.asymmetric = any(t.aux is AuxKind.ZERO for t in types)
        self.gaps = any(t.aux is AuxKind.GAPS for t in types)
        self.float_scales = any(t.float_scales for t in types)
        self.pe = family(a.family)
        self.sum_bits = signed_bits(a.group_max << (a.act_bits - 1))
        interval = min(self.timing(kind).interval for kind in self.kinds)
        #: What the columns take of a step's activations.
        self.operand = self.pe.operand(a.rows, a.lanes, a.act_bits)
        self.rate = bits_per_cycle(a.group_min // a.lanes * interval)
        #: Cycles from one group's end to the next that the dequantiser needs.
        self.spacing = 8 // self.rate
        self.dequant_latency = dequant_latency(self.rate, self.asymmetric, self.float_scales)

    def timing(self, kind: WeightKind):
        return self.pe.timing(kind, self.config.array.lanes, self.config.array.act_bits)

    def front(self) -> Front | None:
        """The family's front, which serves all columns."""
        return self.pe.front(self.config.array.rows, self.config.array.lanes, self.config.array.act_bits)

    def make_pe(self) -> PeColumn:
        a = self.config.array
        return self.pe(rows=a.rows, lanes=a.lanes, act_bits=a.act_bits, kinds=self.kinds,
                       group_max=a.group_max)

    def make_dequant(self) -> GroupDequant:
        a = self.config.array
        return GroupDequant(rows=a.rows, dot_bits=dot_bits(a.act_bits, self.kinds, a.group_max),
                            sum_bits=self.sum_bits, rate=self.rate, asymmetric=self.asymmetric,
                            floating=self.float_scales)


class Column(wiring.Component):
    """PE column, dequantiser, accumulators and the copies that are drained.

    Members
    -------
    step, ready : In/Out, a step is offered and taken
    acts, codes, kind, select, last : In, the step; `acts` as `PeColumn` takes it, behind the family's front
    dot_valid : Out, a group's dot products are there; in this cycle `xsum`, `scale`, `zero`, `first` and
        `final` (position of the group in its tile) are taken
    tile_done : Out, the accumulators of a tile have been copied for the drain
    drain_row, drained : In/Out, the copy of one row, combinational
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(self.ports(config))

    @staticmethod
    def ports(config: Config) -> wiring.Signature:
        a, plan = config.array, ColumnPlan(config)
        return wiring.Signature({
            "step": In(1), "ready": Out(1),
            "acts": In(plan.operand.size), "codes": In(8 * a.lanes), "kind": In(4),
            "select": In(4), "last": In(1),
            "dot_valid": Out(1), "xsum": In(a.rows * plan.sum_bits), "scale": In(8),
            "float_scales": In(1), "zero": In(8), "first": In(1), "final": In(1),
            "tile_done": Out(1),
            "drain_row": In(range(max(a.rows, 2))), "drained": Out(a.acc_bits),
        })

    def elaborate(self, platform):
        m = Module()
        a, plan = self.config.array, ColumnPlan(self.config)
        m.submodules.pe = pe = plan.make_pe()
        m.submodules.dequant = dequant = plan.make_dequant()
        m.d.comb += [
            pe.acts.valid.eq(self.step), pe.weights.valid.eq(self.step),
            pe.acts.payload.eq(self.acts),
            pe.weights.payload.codes.eq(self.codes), pe.weights.payload.kind.eq(self.kind),
            pe.weights.payload.select.eq(self.select), pe.weights.payload.last.eq(self.last),
            self.ready.eq(pe.weights.ready),
            pe.dots.ready.eq(1), self.dot_valid.eq(pe.dots.valid),
            dequant.start.eq(pe.dots.valid), dequant.dot.eq(pe.dots.payload),
            dequant.xsum.eq(self.xsum), dequant.scale.eq(self.scale), dequant.float_scale.eq(self.float_scales),
            dequant.zero.eq(self.zero),
            dequant.tag[0].eq(self.first), dequant.tag[1].eq(self.final),
        ]
        first, final = dequant.tag_out[0], dequant.tag_out[1]
        m.d.sync += self.tile_done.eq(dequant.done & final)
        copies = []
        for r in range(a.rows):
            acc = Signal(signed(a.acc_bits), name=f"acc_{r}")
            total = Signal(signed(a.acc_bits), name=f"total_{r}")
            copy = Signal(signed(a.acc_bits), name=f"copy_{r}")
            m.d.comb += total.eq(Mux(first, 0, acc) + dequant.value[r])
            with m.If(dequant.done):
                m.d.sync += acc.eq(total)
                with m.If(final):
                    m.d.sync += copy.eq(total)
            copies.append(copy)
        m.d.comb += self.drained.eq(Array(copies)[self.drain_row])
        return m


def place_column(m: Module, config: Config, name: str, inline: bool) -> Any:
    """A column as a submodule: elaborated here, or an instance of the Verilog module ``column``."""
    if inline:
        m.submodules[name] = column = Column(config)
        return column
    # One Verilog module, many instances: elaborating each column would take minutes.
    ports: dict[str, object] = {}
    signature = Column.ports(config)
    outer = signature.flip().create(path=(name,))
    for member in signature.members:
        is_input = signature.members[member].flow == In
        ports[("i_" if is_input else "o_") + member] = getattr(outer, member)
    m.submodules[name] = Instance("column", i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)
    return outer

