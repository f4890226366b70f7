"""MATMUL: the array, its front end that takes tiles from the weight stream, and its drain."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from wordline.pe.act_sum import ActSum
from wordline.pe.datatypes import AUX_BITS, AuxKind
from wordline.rtl.beat_memory import BeatMemory
from wordline.rtl.column import ColumnPlan, place_column
from wordline.rtl.config import Config
from wordline.rtl.drain import Drain, bank_m_port
from wordline.rtl.gearbox import Gearbox, whole_beats
from wordline.rtl.isa import ROW_SCALES, Aux, CodeOrder, MatmulInstruction
from wordline.rtl.layout import pick_bits
from wordline.rtl.ports import ReadPort, UnitPort
from wordline.rtl.trits import TritGearbox


def channel_beats(config: Config) -> int:
    return -(-config.array.cols * 32 // config.bus.data_bits)


def pick_beats(config: Config) -> int:
    """Beats of a tile's picks that an array with a window holds: for the longest row."""
    return max(1, config.memory.act_elements * pick_bits(config.array.window) // config.bus.data_bits)


def half(index: Value, parity: Value, bits: int) -> Value:
    """Address of `bits` bits: word `index` of one of the two halves of a memory."""
    return Cat(Cat(index, Const(0, bits))[: bits - 1], parity)


class MatmulUnit(wiring.Component):
    """Executes one `MatmulInstruction` after the other on the array.

    For each tile the front end takes the header (channel scales, group scales, selects or zeros) into
    memories that hold two tiles, then steps. A step goes to all columns at once with its activations.
    A group's last step waits until the dequantisers can take it; a tile's last step waits until the tile before has
    left the accumulators' copies.

    Parameters
    ----------
    inline : bool
        Elaborate every column here (for Amaranth's simulator) instead of instances of ``column``.

    Members
    -------
    port : UnitPort
    beats : In(stream) from the weight FIFO
    act : ReadPort of the activation buffer: ``lanes`` activations of every row
    act_words : Out, with `array.window`: for each lane the lowest bits of its address, instead of those in ``act``
    row_scale : ReadPort of the row scales (address slot*16 + row)
    m : WritePort of bank M
    """

    def __init__(self, config: Config, *, inline: bool = False):
        self.config, self.inline = config, inline
        a = config.array
        by_lane = {"act_words": Out(a.lanes * exact_log2(a.window))} if a.window else {}
        super().__init__(by_lane | {
            "port": Out(UnitPort(MatmulInstruction)),
            "beats": In(stream.Signature(config.bus.data_bits)),
            "act": Out(ReadPort(exact_log2(config.memory.act_elements // a.lanes),
                                a.rows * a.lanes * a.act_bits)),
            "row_scale": Out(ReadPort(exact_log2(ROW_SCALES), 32)),
            "m": Out(bank_m_port(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config, a = self.config, self.config.array
        plan = ColumnPlan(config)
        bus, cols, lanes = config.bus.data_bits, a.cols, a.lanes
        ch_beats = channel_beats(config)

        m.submodules.gearbox = gearbox = Gearbox(
            beat_bits=bus, plane_bits=cols * lanes, whole=whole_beats(config))
        # The path that an instruction's codes take: planes and whole codes, or ternary weights.
        steps_valid, step_ready, front_drained, front_ready = Signal(), Signal(), Signal(), Signal()
        m.submodules.drain = drain = Drain(config)
        m.submodules.channels = channels = BeatMemory(
            beat_bits=bus, word_bits=32 * a.drain_lanes,
            beats=2 * max(1 << (ch_beats - 1).bit_length(), -(-32 * a.drain_lanes // bus)))
        scale_beats_max = config.scale_beats
        m.submodules.scales = scales = BeatMemory(beat_bits=bus, word_bits=8 * cols, beats=2 * scale_beats_max)
        m.submodules.auxes = auxes = BeatMemory(beat_bits=bus, word_bits=8 * cols, beats=2 * scale_beats_max)
        memories = [channels, scales, auxes]
        if a.sparse:
            m.submodules.group_index = group_index = BeatMemory(beat_bits=bus, word_bits=16,
                                                                beats=2 * config.index_beats)
            memories.append(group_index)
        if a.window:
            m.submodules.picks = picks = BeatMemory(
                beat_bits=bus, word_bits=lanes * pick_bits(a.window), beats=2 * pick_beats(config))
            memories.append(picks)
        connect(m, drain.m, flipped(self.m))
        connect(m, drain.row_scale, flipped(self.row_scale))
        columns = [place_column(m, config, f"column_{c}", self.inline) for c in range(cols)]
        lead = columns[0]

        instruction = Signal.like(self.port.instruction.payload)
        kind, steps, tiles = instruction.kind, instruction.steps.imm, instruction.tiles.imm
        rows = instruction.rows.imm[:5]
        group_steps = Signal(16)
        m.d.comb += group_steps.eq(Mux(instruction.group_steps == 0, steps, instruction.group_steps))

        # --- Beats: header sections, then codes.
        def section_beats(bits: int, count: Value = instruction.groups) -> Value:
            """ceil(count * bits / bus)"""
            if bits >= bus:
                return count << exact_log2(bits // bus)
            per_beat = bus // bits
            return (count + per_beat - 1) >> exact_log2(per_beat)

        longest = max(ch_beats, scale_beats_max, pick_beats(config) if a.window else 0)
        section_size = [Signal(range(longest + 2), name=f"section_{i}") for i in range(len(memories))]
        end = len(memories)  # the section behind the last
        section, beat = Signal(range(end + 1)), Signal(range(longest + 2))
        # The section behind selects and zero points: one of those that only sparse instructions have, or none.
        index_section: Value = Const(end)
        if a.window:
            index_section = Mux(instruction.kept != 0, end - 1, index_section)
        if a.sparse:
            index_section = Mux(instruction.sparse, 3, index_section)
        size = Array([*section_size, Const(0, 1)])[section]
        tile, header_parity = Signal(16), Signal()
        issued_tiles, done_tiles = Signal(16), Signal(16)
        header = Signal()
        start_codes, codes_valid = Signal(), Signal()
        m.d.comb += [
            gearbox.beats.payload.eq(self.beats.payload), gearbox.planes.eq(instruction.planes),
            gearbox.total.eq(steps * instruction.planes),
        ]
        is_trits: Value = Const(0, 1)
        if plan.trits:
            m.submodules.trits = trits = TritGearbox(beat_bits=bus, step_codes=cols * lanes)
            is_trits = instruction.order == CodeOrder.TRITS
            m.d.comb += [
                trits.beats.payload.eq(self.beats.payload), trits.total.eq(steps),
                trits.start.eq(start_codes & is_trits), trits.beats.valid.eq(codes_valid & is_trits),
                trits.steps.ready.eq(step_ready),
                steps_valid.eq(Mux(is_trits, trits.steps.valid, gearbox.steps.valid)),
                front_drained.eq(Mux(is_trits, trits.drained, gearbox.drained)),
                front_ready.eq(Mux(is_trits, trits.beats.ready, gearbox.beats.ready)),
            ]
        else:
            m.d.comb += [steps_valid.eq(gearbox.steps.valid), front_drained.eq(gearbox.drained),
                         front_ready.eq(gearbox.beats.ready)]
        m.d.comb += [
            gearbox.start.eq(start_codes & ~is_trits), gearbox.beats.valid.eq(codes_valid & ~is_trits),
            gearbox.steps.ready.eq(step_ready),
        ]
        for index, memory in enumerate(memories):
            m.d.comb += [
                memory.write.eq(header & self.beats.valid & (section == index)),
                memory.write_data.eq(self.beats.payload),
                memory.write_address.eq(half(beat, header_parity, len(memory.write_address))),
            ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.port.instruction.ready.eq(1)
                m.d.sync += [instruction.eq(self.port.instruction.payload), tile.eq(0)]
                with m.If(self.port.instruction.valid):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.sync += [
                    section_size[0].eq(Mux(instruction.channel_scales, ch_beats, 0)),
                    section_size[1].eq(Mux(instruction.group_scales, section_beats(8 * cols), 0)),
                    section_size[2].eq(Array(
                        section_beats(AUX_BITS[a] * cols) if AUX_BITS[a] else 0 for a in AuxKind)[instruction.aux]),
                    section.eq(0), beat.eq(0), header_parity.eq(0),
                ]
                if a.sparse:
                    m.d.sync += section_size[3].eq(section_beats(16))
                if a.window:
                    m.d.sync += section_size[end - 1].eq(section_beats(lanes * pick_bits(a.window), steps))
                m.next = "HEADER"
                with m.If((tiles == 0) | (steps == 0) | (rows == 0)):
                    m.next = "END"
            with m.State("HEADER"):
                with m.If(section == end):
                    # The gearbox is free when every step of the tile before has been issued.
                    with m.If(issued_tiles == tile):
                        m.d.comb += start_codes.eq(1)
                        m.d.sync += [section.eq(0), header_parity.eq(~header_parity), tile.eq(tile + 1)]
                        m.next = "CODES"
                with m.Elif(done_tiles + 1 < tile):
                    pass  # the tile before last still needs the half that this header goes to
                with m.Elif(beat == size):
                    m.d.sync += [section.eq(section + 1), beat.eq(0)]
                    if a.sparse or a.window:
                        with m.If(section >= 2):
                            m.d.sync += section.eq(Mux(section == 2, index_section, end))
                with m.Else():
                    m.d.comb += [header.eq(1), self.beats.ready.eq(1)]
                    with m.If(self.beats.valid):
                        m.d.sync += beat.eq(beat + 1)
            with m.State("CODES"):
                m.d.comb += [codes_valid.eq(self.beats.valid), self.beats.ready.eq(front_ready)]
                with m.If(front_drained):
                    m.next = "HEADER"
                    with m.If(tile == tiles):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                with m.If((done_tiles == tiles) & drain.idle):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += self.port.done.eq(1)
                m.next = "IDLE"

        # --- Steps: gearbox -> offer register (with the activations that the buffer answers) -> columns.
        load, offered, taken = Signal(), Signal(), Signal()
        step = Signal(16)
        act, held_act = Signal(16), Signal(16)  # where the step's activations lie
        first_act, tiles_left = Signal(16), Signal(8)  # of the tile; until the activations change
        group, held_group, in_group = Signal(16), Signal(16), Signal(16)
        group_last, tile_last = Signal(), Signal()  # of the offered step
        issue_parity, held_parity = Signal(), Signal()
        # Codes of lane j at bits 8j, a value for each column: of all, a large array's would be too wide for Amaranth.
        codes = [Signal(8 * lanes, name=f"codes_{i}") for i in range(cols)]
        ordered = [Signal(8 * lanes, name=f"ordered_{i}") for i in range(cols)]
        planes = gearbox.steps.planes

        def whole(parts: Sequence[Value], bits: int, places: range) -> Value:
            """A column's codes of `bits` bits at the places in a step, one for each lane. The step is in `parts`: of
            each slice of their concatenation Amaranth would make a copy of the whole."""
            cuts = [divmod(place * bits, len(parts[0])) for place in places]
            return Cat(Cat(parts[part][low : low + bits], Const(0, 8 - bits)) for part, low in cuts)

        def by_column(i: int) -> range:
            return range(i * lanes, (i + 1) * lanes)

        with m.Switch(Cat(instruction.order, instruction.planes[2:])):
            for bits in plan.whole_codes:
                with m.Case(CodeOrder.COLUMNS | bits // 4 << 2):
                    m.d.comb += [ordered[i].eq(whole(planes, bits, by_column(i))) for i in range(cols)]
                with m.Case(CodeOrder.LANES | bits // 4 << 2):
                    m.d.comb += [ordered[i].eq(whole(planes, bits, range(i, cols * lanes, cols)))
                                 for i in range(cols)]
            if plan.trits:
                with m.Case(CodeOrder.TRITS):
                    m.d.comb += [ordered[i].eq(whole([trits.steps.payload], 2, by_column(i))) for i in range(cols)]
            with m.Default():
                m.d.comb += [ordered[i].eq(Cat(plane[place] for place in by_column(i) for plane in planes))
                             for i in range(cols)]

        last_in_tile, last_in_group = Signal(), Signal()
        m.d.comb += [
            last_in_tile.eq(step == steps - 1),
            last_in_group.eq((in_group == group_steps - 1) | last_in_tile),
            load.eq(steps_valid & (~offered | taken)), step_ready.eq(~offered | taken),
            self.act.addr.eq(Mux(load, act, held_act)),
        ]
        with m.If(taken):
            m.d.sync += offered.eq(0)
        next_act = last_in_tile & (tiles_left == 1)
        with m.If(load):
            m.d.sync += [
                offered.eq(1), group_last.eq(last_in_group), tile_last.eq(last_in_tile),
                *(held.eq(new) for held, new in zip(codes, ordered)),
                held_act.eq(act), act.eq(Mux(last_in_tile & ~next_act, first_act, act + 1)),
                held_group.eq(group), held_parity.eq(issue_parity),
                first_act.eq(Mux(next_act, act + 1, first_act)),
                tiles_left.eq(Mux(next_act, instruction.act_tiles, tiles_left - (last_in_tile & (tiles_left != 0)))),
                step.eq(Mux(last_in_tile, 0, step + 1)),
                in_group.eq(Mux(last_in_group, 0, in_group + 1)),
                group.eq(Mux(last_in_tile, 0, group + last_in_group)),
                issue_parity.eq(issue_parity ^ last_in_tile), issued_tiles.eq(issued_tiles + last_in_tile),
            ]
        if a.sparse:
            self._follow_index(m, group_index, instruction, start_codes=start_codes, load=load, act=act,
                               last_in_group=last_in_group, last_in_tile=last_in_tile, parity=issue_parity)
        if a.window:
            self._follow_picks(m, picks, instruction, load=load, act=act, step=step, last_in_tile=last_in_tile,
                               parity=issue_parity)
        guard = Signal(range(plan.spacing + 1))
        pending = Signal()  # a tile is between its last step and the end of its drain's reading
        with m.If(guard != 0):
            m.d.sync += guard.eq(guard - 1)
        with m.If(taken & group_last):
            m.d.sync += guard.eq(plan.spacing - 1)
        was_busy = Signal()
        m.d.sync += was_busy.eq(drain.busy)
        drained = was_busy & ~drain.busy
        with m.If(drained):
            m.d.sync += [pending.eq(0), done_tiles.eq(done_tiles + 1)]
        with m.If(taken & tile_last):
            m.d.sync += pending.eq(1)
        offer = Signal()
        m.d.comb += [
            offer.eq(offered & ~(group_last & (guard != 0)) & ~(tile_last & pending)),
            taken.eq(offer & lead.ready),
        ]

        # --- Group results: which scale and zero point each needs when its dot products appear.
        result_group, result_parity = Signal(16), Signal()
        next_group, next_parity = Signal(16), Signal()
        last_group, final = Signal(16), Signal()  # whether it is the tile's last
        m.d.comb += [next_group.eq(result_group), next_parity.eq(result_parity)]
        with m.If(lead.dot_valid):
            m.d.comb += next_group.eq(Mux(final, 0, result_group + 1))
            m.d.comb += next_parity.eq(result_parity ^ final)
        m.d.sync += [result_group.eq(next_group), result_parity.eq(next_parity),
                     last_group.eq(instruction.groups - 1), final.eq(next_group == last_group)]

        select_group, select_parity = Mux(load, group, held_group), Mux(load, issue_parity, held_parity)
        m.d.comb += [
            scales.address.eq(half(next_group, next_parity, scales.address_bits)),
        ]
        # Zero points are wanted behind the PE, selects and gaps before it.
        with m.Switch(instruction.aux):
            with m.Case(Aux.SELECT):
                m.d.comb += auxes.address.eq(half(select_group[2:], select_parity, auxes.address_bits))
            with m.Case(Aux.GAPS):
                m.d.comb += auxes.address.eq(half(select_group[1:], select_parity, auxes.address_bits))
            with m.Default():
                m.d.comb += auxes.address.eq(half(next_group, next_parity, auxes.address_bits))
        select_word = auxes.data.word_select(held_group[:2], 2 * cols)
        gaps_word = auxes.data.word_select(held_group[:1], 4 * cols)
        selects: list[Value] = [select_word.word_select(c, 2) for c in range(cols)]
        if plan.gaps:
            selects = [Mux(instruction.aux == Aux.GAPS, gaps_word.word_select(c, 4), selects[c]) for c in range(cols)]

        xsum: Value = Const(0, a.rows * plan.sum_bits)
        if plan.asymmetric:
            m.submodules.act_sum = act_sum = ActSum(
                rows=a.rows, lanes=lanes, act_bits=a.act_bits, group_max=a.group_max)
            m.d.comb += [
                act_sum.steps.valid.eq(taken), act_sum.steps.payload.acts.eq(self.act.data),
                act_sum.steps.payload.last.eq(group_last), act_sum.xsum.ready.eq(lead.dot_valid),
            ]
            xsum = act_sum.xsum.payload.as_value()
        operand: Value = self.act.data
        front = plan.front()
        if front:
            m.submodules.front = front
            m.d.comb += [front.taken.eq(taken), front.acts.eq(self.act.data)]
            operand = front.operand.as_value()
        for c, column in enumerate(columns):
            m.d.comb += [
                column.step.eq(offer), column.acts.eq(operand),
                column.codes.eq(codes[c]),
                column.kind.eq(kind), column.last.eq(group_last),
                column.select.eq(selects[c]), column.float_scales.eq(instruction.float_scales),
                column.scale.eq(Mux(instruction.group_scales, scales.data.word_select(c, 8), 1)),
                column.zero.eq(Mux(instruction.aux == Aux.ZERO, auxes.data.word_select(c, 8), 0)),
                column.xsum.eq(xsum), column.first.eq(result_group == 0), column.final.eq(final),
                column.drain_row.eq(drain.row),
            ]

        # --- Drain.
        out, channel_parity = Signal(16), Signal()
        m.d.comb += [
            drain.start.eq(lead.tile_done), drain.rows.eq(rows), drain.slot.eq(instruction.slot),
            drain.out.eq(out), drain.out_stride.eq(instruction.out_stride),
            drain.use_channel.eq(instruction.channel_scales),
            drain.accs.eq(Cat(column.drained for column in columns)),
            channels.address.eq(half(drain.chunk, channel_parity, channels.address_bits)),
            drain.channel.eq(channels.data),
        ]
        with m.If(drained):
            m.d.sync += [out.eq(out + cols // config.vector.lanes), channel_parity.eq(~channel_parity)]
        with m.If(self.port.instruction.valid & self.port.instruction.ready):
            m.d.sync += [
                act.eq(self.port.instruction.payload.act.imm),
                first_act.eq(self.port.instruction.payload.act.imm),
                tiles_left.eq(self.port.instruction.payload.act_tiles),
                out.eq(self.port.instruction.payload.out.imm), channel_parity.eq(0), issued_tiles.eq(0),
                done_tiles.eq(0), issue_parity.eq(0), result_parity.eq(0),
            ]
        return m

    def _follow_index(self, m: Module, index: BeatMemory, instruction: Any, *, start_codes: Value, load: Value,
                      act: Signal, last_in_group: Value, last_in_tile: Value, parity: Value) -> None:
        """Of a sparse instruction, let `act` go where the index says at every group's begin.

        The memory presents the start of the group behind the one that is being loaded; while no tile is, of a tile's
        first, which is written before its codes start.
        """
        group, next_group = Signal(16), Signal(16)
        start = instruction.act.imm + index.data
        m.d.comb += next_group.eq(group)
        with m.If(start_codes):
            m.d.comb += next_group.eq(1)
        with m.Elif(load & last_in_group):
            m.d.comb += next_group.eq(Mux(last_in_tile, 0, group + 1))
        m.d.sync += group.eq(next_group)
        m.d.comb += index.address.eq(half(next_group, parity ^ (load & last_in_tile), index.address_bits))
        with m.If(instruction.sparse & (start_codes | (load & last_in_group & ~last_in_tile))):
            m.d.sync += act.eq(start)

    def _follow_picks(self, m: Module, picks: BeatMemory, instruction: Any, *, load: Value, act: Signal, step: Value,
                      last_in_tile: Value, parity: Value) -> None:
        """Of an instruction with `kept`, give every lane the word that it picks out of the window at `act`, and let
        `act` go to the next window behind the window's last step.

        The memory presents the picks of the step that is loaded next; a tile's are written before its codes start.
        """
        window, lanes = self.config.array.window, self.config.array.lanes
        low, bits = exact_log2(window), pick_bits(window)
        held, in_window = Signal(lanes * bits), Signal(range(window))
        next_step = Mux(load, Mux(last_in_tile, 0, step + 1), step)
        m.d.comb += picks.address.eq(half(next_step, parity ^ (load & last_in_tile), picks.address_bits))
        chosen, picking = Mux(load, picks.data, held), instruction.kept != 0
        m.d.comb += self.act_words.eq(Cat(
            Mux(picking, chosen.word_select(j, bits)[:low], self.act.addr[:low]) for j in range(lanes)))
        with m.If(load):
            m.d.sync += held.eq(picks.data)
        with m.If(load & picking):
            last = last_in_tile | (in_window == instruction.kept - 1)
            m.d.sync += in_window.eq(Mux(last, 0, in_window + 1))
            with m.If(~last_in_tile):
                m.d.sync += act.eq(Mux(last, act + window, act))
