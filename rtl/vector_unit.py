"""VECTOR: float32 on vectors; everything between two matmuls is a series of its instructions."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Out
from amaranth.utils import exact_log2

from wordline.pe.float_parts import delay
from wordline.rtl.config import Config
from wordline.rtl.isa import (
    ROW_SCALES,
    SCALARS,
    Destination,
    Factor,
    Function,
    Reduction,
    SourceA,
    SourceB,
    VectorInstruction,
)
from wordline.rtl.ports import ReadPort, UnitPort, WritePort
from wordline.rtl.vector_lane import VectorLane
from wordline.rtl.vector_reduce import VectorReduce, reduce_cycles, sum_interval

#: Cycles in which an instruction's scalars are read and its size in words is found.
PREPARE = 2
MINUS_INFINITY = 0xFF800000


def vector_words(config: Config, *, length: int, pad: int, outer: int, destination: Destination) -> int:
    """Words an instruction processes."""
    lanes = config.vector.lanes
    words = -(-max(length, pad & 0xFFFF) // lanes)
    if destination == Destination.ACT:
        step = config.array.lanes // lanes
        words = -(-words // step) * step
    return words * (outer + (pad >> 16 & 0xFF) + 1)


def vector_depth(multiply: Factor, addend: Factor, function: Function) -> int:
    """Cycles from an address to the element's result: memory, lane."""
    return 1 + VectorLane.latency(multiply, addend, function)


def vector_cycles(config: Config, words: int, reduction: Reduction, depth: int) -> int:
    """Cycles from the start of an instruction of `words` words and `vector_depth` `depth` to its end: see
    `VectorUnit`."""
    lanes = config.vector.lanes
    interval = sum_interval(lanes) if reduction == Reduction.SUM else 1
    cycles = PREPARE + max(words, 1) * interval + depth + 1
    if reduction == Reduction.NONE:
        return cycles
    return cycles + 1 + reduce_cycles(lanes, reduction, words) + (reduction == Reduction.ARGMAX)


class VectorUnit(wiring.Component):
    """Executes one `VectorInstruction` after the other in a pipeline of `vector.lanes` lanes.

    ``d[i] = function(join(a[i] * f, c))``, one word of `lanes` elements a cycle; `rtl.vector_ref` says
    exactly what. The next instruction starts only after the end of the last, so it reads what that wrote,
    the scalar registers included.

    Time, from start to end, of an instruction of W words (`vector_words`), with V lanes and the latency F of the
    stages that it uses (`VectorLane.latency`)::

        no reduction    max(W, 1) + F + 4
        MAX, ABSMAX     max(W, 1) + F + 7 + log2(V)
        ARGMAX          max(W, 1) + F + 8 + log2(V)
        SUM             max(W, 1) * I + F + 14 + 7*log2(V) + fold(W)
                        fold(W) = sum(2^k + 7 for k in range(L))
                        L = ceil(log2(min(W, 128/V))), 0 for no word

    where fold and 7*log2(V) put the 128 partial sums together, and I = `sum_interval` is 1 up to 16 lanes. No time
    depends on data.

    Members
    -------
    port : UnitPort
    x_a, x_b, m_a, m_b, l_b : ReadPorts of banks X, M and L, words of `vector.lanes` float32
    x, s : WritePorts of banks X and S
    act, act_row : WritePort of the activation buffer (word of `vector.lanes` activations) and its row
    row_scale : WritePort of the row scales, address slot*16 + row
    """

    def __init__(self, config: Config):
        self.config = config
        lanes, memory = config.vector.lanes, config.memory
        self.lanes = lanes
        word = 32 * lanes

        def depth(floats: int) -> int:
            return exact_log2(floats // lanes)

        super().__init__({
            "port": Out(UnitPort(VectorInstruction)),
            "x_a": Out(ReadPort(depth(memory.vector_floats), word)),
            "x_b": Out(ReadPort(depth(memory.vector_floats), word)),
            "m_a": Out(ReadPort(depth(memory.matmul_floats), word)),
            "m_b": Out(ReadPort(depth(memory.matmul_floats), word)),
            "l_b": Out(ReadPort(depth(memory.load_floats), word)),
            "x": Out(WritePort(depth(memory.vector_floats), word)),
            "s": Out(WritePort(depth(memory.store_floats), word)),
            "act": Out(WritePort(depth(memory.act_elements), lanes * config.array.act_bits)),
            "act_row": Out(4),
            "row_scale": Out(WritePort(exact_log2(ROW_SCALES), 32)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, config = self.lanes, self.config
        low = exact_log2(lanes)
        instruction = Signal.like(self.port.instruction.payload)
        m.submodules.reduce = reduce = VectorReduce(lanes)
        m.submodules.scalars = scalars = Memory(shape=32, depth=SCALARS, init=[])
        scalar_write = scalars.write_port()

        # Constants of the instruction, gathered before it runs.
        a_constant, factor, addend = Signal(32), Signal(32), Signal(32)
        init_value, init_index = Signal(32), Signal(32)
        deepest = vector_depth(Factor.B, Factor.B, Function.EXP2)
        count = Signal(range(deepest + 2))

        # Sizes in words.
        elements, segment = Signal(17), Signal(17)
        step = exact_log2(config.array.lanes // lanes)
        m.d.comb += elements.eq(Mux(instruction.pad.imm[:16] > instruction.len.imm,
                                    instruction.pad.imm[:16], instruction.len.imm))
        words = (elements + lanes - 1) >> low
        to_act = instruction.destination == Destination.ACT
        m.d.sync += segment.eq(Mux(to_act, ((words + (1 << step) - 1) >> step) << step, words))

        a_base, b_base, dst_base = Signal(16), Signal(16), Signal(16)
        word, segments, left = Signal(17), Signal(9), Signal(16)
        base = Signal(32)
        issue = Signal()
        interval = sum_interval(lanes)
        turn, next_word = Signal(range(max(interval, 2))), Signal()  # words of a SUM come `interval` cycles apart

        # Stages that the instruction uses.
        multiplies, adds = instruction.multiply != Factor.NONE, instruction.addend != Factor.NONE
        computes, special = instruction.function != Function.NONE, Signal()
        reduces = instruction.reduction != Reduction.NONE
        depth = Signal(range(deepest + 2))
        m.d.comb += special.eq(computes & (instruction.function != Function.INT))
        m.d.sync += depth.eq(
            1 + Mux(multiplies, VectorLane.multiply_latency, 0) + Mux(adds, VectorLane.add_latency, 0)
            + Mux(special, VectorLane.special_latency, Mux(computes, VectorLane.int_latency, VectorLane.plain_latency)))

        def scalar(number):
            port = scalars.read_port(domain="comb")
            m.d.comb += port.addr.eq(number)
            return port.data

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.port.instruction.ready.eq(1)
                m.d.sync += [instruction.eq(self.port.instruction.payload), count.eq(0)]
                with m.If(self.port.instruction.valid):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                m.d.sync += count.eq(count + 1)
                start = Mux(instruction.reduction == Reduction.ABSMAX, 0, MINUS_INFINITY)
                m.d.sync += [
                    a_constant.eq(Mux(instruction.a_source == SourceA.IMMEDIATE, instruction.immediate,
                                      scalar(instruction.a.imm))),
                    factor.eq(Mux(instruction.multiply == Factor.IMMEDIATE, instruction.immediate,
                                  scalar(instruction.multiply_scalar))),
                    addend.eq(Mux(instruction.addend == Factor.IMMEDIATE, instruction.immediate,
                                  scalar(instruction.addend_scalar))),
                    init_value.eq(Mux(instruction.keep, scalar(instruction.scalar), start)),
                    init_index.eq(Mux(instruction.keep, scalar(instruction.scalar + 1), 0)),
                    a_base.eq(instruction.a.imm), b_base.eq(instruction.b.imm),
                    dst_base.eq(instruction.dst.imm), word.eq(0),
                    segments.eq(instruction.outer + instruction.pad.imm[16:24]),
                    left.eq(instruction.len.imm), base.eq(instruction.b.imm << low), turn.eq(0),
                ]
                with m.If(count == PREPARE - 1):
                    m.d.comb += reduce.start.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += [issue.eq((segment != 0) & (turn == 0)), next_word.eq(1)]
                if interval > 1:
                    with m.If(instruction.reduction == Reduction.SUM):
                        m.d.sync += turn.eq(Mux(turn == interval - 1, 0, turn + 1))
                        m.d.comb += next_word.eq(turn == interval - 1)
                m.d.sync += count.eq(0)
                with m.If(next_word):
                    m.d.sync += [
                        word.eq(word + 1), base.eq(base + lanes),
                        left.eq(Mux(left > lanes, left - lanes, 0)),
                    ]
                    with m.If(word + 1 >= segment):
                        m.d.sync += [
                            word.eq(0), left.eq(instruction.len.imm), segments.eq(segments - 1),
                            a_base.eq(a_base + instruction.a_stride),
                            b_base.eq(b_base + instruction.b_stride),
                            dst_base.eq(dst_base + instruction.dst_stride),
                        ]
                        with m.If((segments == 0) | (segment == 0)):
                            m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += count.eq(count + 1)
                with m.If((count == depth) & ~reduces):
                    m.d.comb += self.port.done.eq(1)
                    m.next = "IDLE"
                with m.If(count == depth + 1):
                    m.d.comb += reduce.finish.eq(1)
                    m.next = "REDUCE"
            with m.State("REDUCE"):
                with m.If(reduce.finished):
                    m.d.comb += [
                        scalar_write.addr.eq(instruction.scalar), scalar_write.data.eq(reduce.value),
                        scalar_write.en.eq(1),
                    ]
                    m.next = "INDEX"
                    with m.If(instruction.reduction != Reduction.ARGMAX):
                        m.d.comb += self.port.done.eq(1)
                        m.next = "IDLE"
            with m.State("INDEX"):
                m.d.comb += [
                    scalar_write.addr.eq(instruction.scalar + 1), scalar_write.data.eq(reduce.index),
                    scalar_write.en.eq(1), self.port.done.eq(1),
                ]
                m.next = "IDLE"

        # Read.
        a_address, b_address = Signal(16), Signal(16)
        m.d.comb += [a_address.eq(a_base + word), b_address.eq(b_base + word)]
        m.d.comb += [port.addr.eq(a_address) for port in (self.x_a, self.m_a)]
        m.d.comb += [port.addr.eq(b_address) for port in (self.x_b, self.m_b, self.l_b)]
        a_word, b_word = Signal(32 * lanes), Signal(32 * lanes)
        with m.Switch(instruction.a_source):
            with m.Case(SourceA.X):
                m.d.comb += a_word.eq(self.x_a.data)
            with m.Case(SourceA.M):
                m.d.comb += a_word.eq(self.m_a.data)
            with m.Default():
                m.d.comb += a_word.eq(a_constant.replicate(lanes))
        with m.Switch(instruction.b_source):
            with m.Case(SourceB.X):
                m.d.comb += b_word.eq(self.x_b.data)
            with m.Case(SourceB.M):
                m.d.comb += b_word.eq(self.m_b.data)
            with m.Default():
                m.d.comb += b_word.eq(self.l_b.data)

        # Compute.
        results = []
        for i in range(lanes):
            lane = VectorLane()
            m.submodules[f"lane_{i}"] = lane
            m.d.comb += [
                lane.a.eq(a_word.word_select(i, 32)), lane.b.eq(b_word.word_select(i, 32)),
                lane.factor.eq(factor), lane.addend.eq(addend),
                lane.multiply.eq(instruction.multiply), lane.add.eq(instruction.addend),
                lane.join.eq(instruction.join), lane.function.eq(instruction.function),
                lane.negate_product.eq(instruction.negate_product),
                lane.negate_addend.eq(instruction.negate_addend), lane.bits.eq(instruction.bits),
            ]
            results.append(lane.o)

        def accompany(value, name):
            """What belongs to an element, through the same stages; none keeps it for the next instruction."""
            def stage(value, used, cycles, name):
                return Mux(used, delay(m, Mux(used, value, 0), cycles, name), value)

            value = delay(m, value, 1, f"{name}_read")
            value = stage(value, multiplies, VectorLane.multiply_latency, f"{name}_multiply")
            value = stage(value, adds, VectorLane.add_latency, f"{name}_add")
            value = delay(m, value, VectorLane.plain_latency, f"{name}_plain")
            value = stage(value, computes, VectorLane.int_latency - VectorLane.plain_latency, f"{name}_int")
            return stage(value, special, VectorLane.special_latency - VectorLane.int_latency, f"{name}_special")

        valid = accompany(issue, "valid")
        mask = accompany(Cat(left > i for i in range(lanes)), "mask")
        address = accompany((dst_base + word)[:16], "address")
        index = accompany(base, "index")

        # Write and reduce, from registers.
        out, out_valid, out_address = Signal(32 * lanes), Signal(), Signal(16)
        m.d.sync += [
            out.eq(Cat(Mux(mask[i], r, 0) for i, r in enumerate(results))),
            out_valid.eq(valid), out_address.eq(address),
        ]
        m.d.comb += [reduce.word[i].eq(r) for i, r in enumerate(results)]
        m.d.comb += [
            reduce.valid.eq(valid), reduce.mask.eq(mask), reduce.base.eq(index),
            reduce.kind.eq(instruction.reduction),
            reduce.init_value.eq(init_value), reduce.init_index.eq(init_index),
        ]
        act_bits = config.array.act_bits
        m.d.comb += [port.addr.eq(out_address) for port in (self.x, self.s, self.act, self.row_scale)]
        m.d.comb += [
            self.x.data.eq(out), self.s.data.eq(out), self.row_scale.data.eq(out),
            self.act.data.eq(Cat(out.word_select(i, 32)[:act_bits] for i in range(lanes))),
            self.act_row.eq(out_address[12:]),
        ]
        with m.If(out_valid):
            with m.Switch(instruction.destination):
                with m.Case(Destination.X):
                    m.d.comb += self.x.en.eq(1)
                with m.Case(Destination.ACT):
                    m.d.comb += self.act.en.eq(1)
                with m.Case(Destination.S):
                    m.d.comb += self.s.en.eq(1)
                with m.Case(Destination.ROW_SCALE):
                    m.d.comb += self.row_scale.en.eq(1)
                with m.Case(Destination.SCALAR):
                    m.d.comb += [scalar_write.addr.eq(out_address), scalar_write.data.eq(out[:32]),
                                 scalar_write.en.eq(1)]
        return m
