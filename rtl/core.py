"""The accelerator: sequencer, units, on-chip memories, bus."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from wordline.rtl.axi import Axi4, AxiLite
from wordline.rtl.config import Config
from wordline.rtl.control import Control
from wordline.rtl.dispatch import Dispatch
from wordline.rtl.isa import ROW_SCALES, UNITS, Unit
from wordline.rtl.load_unit import LoadUnit
from wordline.rtl.matmul_unit import MatmulUnit
from wordline.rtl.read_port import ReadArbiter
from wordline.rtl.sequencer import Sequencer
from wordline.rtl.store_unit import StoreUnit
from wordline.rtl.stream_unit import StreamUnit
from wordline.rtl.stripe import Stripe
from wordline.rtl.vector_unit import VectorUnit

_WRITE_SIDE = ("awid", "awaddr", "awlen", "awsize", "awburst", "awvalid", "awready", "wdata", "wstrb",
               "wlast", "wvalid", "wready", "bresp", "bvalid", "bready")
_READ_SIDE = ("arid", "araddr", "arlen", "arsize", "arburst", "arvalid", "arready", "rid", "rdata",
              "rresp", "rvalid", "rready")


class Accelerator(wiring.Component):
    """Everything between the AXI4 master and the AXI4-Lite control port.

    Parameters
    ----------
    inline : bool
        Elaborate the array's columns here instead of instances of the Verilog module ``column``.

    Members
    -------
    axi : Out(Axi4), or an array of `bus.ports`; control : In(AxiLite); irq : Out, a program has ended
    fault, watchdog : In/Out, of an `AxiGuard` on the bus, if there is one
    memory_base : Out, what a bridge adds to every address
    trace_start, trace_done, trace_pc : Out, starts and ends of instructions per unit; the program counter
    """

    def __init__(self, config: Config, *, inline: bool = False):
        self.config, self.inline = config, inline
        axi = Out(Axi4(data_bits=config.bus.port_bits, address_bits=config.bus.address_bits))
        super().__init__({
            "axi": axi if config.bus.ports == 1 else axi.array(config.bus.ports),
            "control": In(AxiLite()),
            "irq": Out(1), "fault": In(1), "watchdog": Out(32), "memory_base": Out(40),
            "trace_start": Out(UNITS), "trace_done": Out(UNITS), "trace_pc": Out(16),
        })

    @property
    def masters(self):
        """The ports of `axi`, also if it is one."""
        return [self.axi] if self.config.bus.ports == 1 else list(self.axi)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.control = control = Control(int(config.hardware_hash(), 16))
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.dispatch = dispatch = Dispatch()
        m.submodules.load = load = LoadUnit(config)
        m.submodules.stream = stream = StreamUnit(config)
        m.submodules.matmul = matmul = MatmulUnit(config, inline=self.inline)
        m.submodules.vector = vector = VectorUnit(config)
        m.submodules.store = store = StoreUnit(config)
        m.submodules.reads = reads = ReadArbiter(data_bits=config.bus.data_bits,
                                                 address_bits=config.bus.address_bits)
        connect(m, flipped(self.control), control.bus)
        for name in ("start", "program_address", "program_length", "arguments"):
            m.d.comb += getattr(sequencer, name).eq(getattr(control, name))
        for name in ("running", "finished", "error", "exit_code"):
            m.d.comb += getattr(control, name).eq(getattr(sequencer, name))
        connect(m, sequencer.queue, dispatch.queue)
        for name in ("control_wait", "control_signal", "control_take", "flush"):
            m.d.comb += getattr(dispatch, name).eq(getattr(sequencer, name))
        m.d.comb += [
            sequencer.control_granted.eq(dispatch.control_granted), sequencer.idle.eq(dispatch.idle),
            sequencer.load_ended.eq(dispatch.ended[Unit.LOAD]),
            control.busy.eq(dispatch.busy), control.ended.eq(dispatch.ended),
            control.fault.eq(self.fault), self.watchdog.eq(control.watchdog),
            self.memory_base.eq(control.memory_base),
            self.irq.eq(sequencer.finished), self.trace_start.eq(dispatch.started),
            self.trace_done.eq(dispatch.ended), self.trace_pc.eq(sequencer.pc),
        ]
        m.d.sync += sequencer.overflow.eq(dispatch.overflow)  # long before END is done
        units = [load, stream, matmul, vector, store]
        for port, unit in zip(dispatch.units, units, strict=True):
            m.d.comb += [
                unit.port.instruction.valid.eq(port.instruction.valid),
                unit.port.instruction.payload.eq(port.instruction.payload),
                port.instruction.ready.eq(unit.port.instruction.ready),
                port.done.eq(unit.port.done), port.error.eq(unit.port.error),
            ]
        m.d.comb += [
            sequencer.read_error.eq(Cat((u.port.done & u.port.error) for u in (load, stream)).any()),
            sequencer.write_error.eq(store.port.done & store.port.error),
            sequencer.program.addr.eq(load.program.addr), sequencer.program.data.eq(load.program.data),
            sequencer.program.en.eq(load.program.en),
            sequencer.register_write.eq(load.register_write),
            sequencer.register_number.eq(load.register_number),
            sequencer.register_value.eq(load.register_value),
            load.register_taken.eq(sequencer.register_taken),
        ]

        # The bus.
        axi = self.masters[0]
        if config.bus.ports > 1:
            m.submodules.stripe = stripe = Stripe(config.bus)
            for inner, outer in zip(stripe.ports, self.masters, strict=True):
                connect(m, inner, flipped(outer))
            axi = stripe.bus
        for i, unit in enumerate((load, stream)):
            connect(m, unit.requests, reads.requests[i])
            m.d.comb += [unit.beats.valid.eq(reads.beats[i].valid),
                         unit.beats.payload.eq(reads.beats[i].payload)]
        for names, component in ((_READ_SIDE, reads), (_WRITE_SIDE, store)):
            for name in names:
                ours, theirs = getattr(axi, name), getattr(component, name)
                outwards = component.signature.members[name].flow == Out
                m.d.comb += ours.eq(theirs) if outwards else theirs.eq(ours)
        # Between programs the array may take any beats it still waits for, and the FIFO loses what it holds.
        m.d.comb += [
            matmul.beats.payload.eq(stream.out.payload),
            matmul.beats.valid.eq(stream.out.valid | sequencer.flush),
            stream.out.ready.eq(matmul.beats.ready | sequencer.flush),
            sequencer.empty.eq(~stream.out.valid),
        ]

        self._memories(m, load, matmul, vector, store)
        return m

    def _memories(self, m, load, matmul, vector, store):
        """One writer each, one copy a reader."""
        a, memory, lanes = self.config.array, self.config.memory, self.config.vector.lanes
        banks = {
            "x": (memory.vector_floats, vector.x, 1, (vector.x_a, vector.x_b)),
            "m": (memory.matmul_floats, matmul.m, lanes // a.drain_lanes, (vector.m_a, vector.m_b)),
            "l": (memory.load_floats, load.l, 1, (vector.l_b,)),
            "s": (memory.store_floats, vector.s, 1, (store.s,)),
        }
        for name, (floats, writer, granules, readers) in banks.items():
            for i, reader in enumerate(readers):
                bank = Memory(shape=32 * lanes, depth=floats // lanes, init=[])
                m.submodules[f"bank_{name}{i}"] = bank
                write = bank.write_port(granularity=32 * lanes // granules)
                read = bank.read_port()
                m.d.comb += [
                    write.addr.eq(writer.addr), write.data.eq(writer.data), write.en.eq(writer.en),
                    read.addr.eq(reader.addr), reader.data.eq(read.data),
                ]
        if a.window:
            self._lane_memories(m, matmul, vector)
        else:
            self._step_memories(m, matmul, vector)
        m.submodules.row_scales = scales = Memory(shape=32, depth=ROW_SCALES, init=[])
        write, read = scales.write_port(), scales.read_port()
        m.d.comb += [
            write.addr.eq(vector.row_scale.addr), write.data.eq(vector.row_scale.data),
            write.en.eq(vector.row_scale.en),
            read.addr.eq(matmul.row_scale.addr), matmul.row_scale.data.eq(read.data),
        ]

    def _step_memories(self, m, matmul, vector):
        """The activation buffer: for each row a memory of words of `lanes` activations."""
        a, memory, lanes = self.config.array, self.config.memory, self.config.vector.lanes
        step = a.lanes * a.act_bits
        parts = a.lanes // lanes  # words of the vector unit in a step of the array
        for r in range(a.rows):
            row = Memory(shape=step, depth=memory.act_elements // a.lanes, init=[])
            m.submodules[f"act_{r}"] = row
            write, read = row.write_port(granularity=step // parts), row.read_port()
            low = (parts - 1).bit_length()
            which = vector.act.addr[:low] if low else 0
            m.d.comb += [
                write.addr.eq(vector.act.addr >> low), write.data.eq(vector.act.data.replicate(parts)),
                write.en.eq((vector.act.en & (vector.act_row == r)) << which),
                read.addr.eq(matmul.act.addr), matmul.act.data.word_select(r, step).eq(read.data),
            ]

    def _lane_memories(self, m, matmul, vector):
        """The activation buffer with an address for each lane: a memory for each, of words of `rows` activations."""
        a, memory, lanes = self.config.array, self.config.memory, self.config.vector.lanes
        window_bits, low = exact_log2(a.window), exact_log2(a.lanes // lanes)
        part = vector.act.addr[:low]
        for j in range(a.lanes):
            lane = Memory(shape=a.rows * a.act_bits, depth=memory.act_elements // a.lanes, init=[])
            m.submodules[f"act_lane_{j}"] = lane
            write, read = lane.write_port(granularity=a.act_bits), lane.read_port()
            ours = (part == j // lanes) if low else 1
            m.d.comb += [
                write.addr.eq(vector.act.addr >> low),
                write.data.eq(vector.act.data.word_select(j % lanes, a.act_bits).replicate(a.rows)),
                write.en.eq(Cat(vector.act.en & (vector.act_row == r) & ours for r in range(a.rows))),
                read.addr.eq(Cat(matmul.act_words.word_select(j, window_bits), matmul.act.addr[window_bits:])),
            ]
            m.d.comb += [matmul.act.data.word_select(r * a.lanes + j, a.act_bits).eq(
                read.data.word_select(r, a.act_bits)) for r in range(a.rows)]
