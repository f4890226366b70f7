"""CONTROL: fetches instructions, adds registers to operands, hands them out, executes its own."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from wordline.rtl.config import Config
from wordline.rtl.isa import (
    INSTRUCTION_BITS,
    REGISTER_BITS,
    REGISTERS,
    UNITS,
    ControlInstruction,
    ErrorCode,
    Instruction,
    LoadFormat,
    LoadInstruction,
    Operation,
    Unit,
)
from wordline.rtl.ports import WritePort

ARGUMENTS = 4
#: Cycles from one instruction's fetch to the next, if it does not wait: fetch, read, resolve, hand out.
CYCLES = 4


class Sequencer(wiring.Component):
    """Boots the program into its memory and runs it, an instruction every `CYCLES` cycles.

    Members
    -------
    start, running, finished, error, exit_code : from and to the control registers
    program_address, program_length, arguments : In
    program : In(WritePort) of the program memory, from the load unit
    register_write, register_number, register_value, register_taken : results of LoadFormat.REGISTER
    queue, control_*, idle, clear, load_ended, overflow : to and from `Dispatch`
    read_error, write_error : In, a unit ended with a bus error
    pc : Out
    """

    def __init__(self, config: Config):
        self.depth = config.memory.program
        super().__init__({
            "start": In(1), "running": Out(1), "finished": Out(1),
            "error": Out(ErrorCode), "exit_code": Out(8),
            "program_address": In(REGISTER_BITS), "program_length": In(16),
            "arguments": In(data.ArrayLayout(signed(32), ARGUMENTS)),
            "program": In(WritePort(exact_log2(self.depth), INSTRUCTION_BITS)),
            "register_write": In(1), "register_number": In(4), "register_value": In(REGISTER_BITS),
            "register_taken": Out(1),
            "queue": Out(stream.Signature(Instruction)),
            "control_wait": Out(UNITS), "control_signal": Out(UNITS),
            "control_granted": In(1), "control_take": Out(1),
            "clear": Out(1), "idle": In(1), "load_ended": In(1), "overflow": In(1),
            "read_error": In(1), "write_error": In(1),
            "pc": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=INSTRUCTION_BITS, depth=self.depth, init=[])
        write, fetch = memory.write_port(), memory.read_port()
        m.d.comb += [write.addr.eq(self.program.addr), write.data.eq(self.program.data),
                     write.en.eq(self.program.en), fetch.addr.eq(self.pc)]

        # Every operand reads its register at once; a copy of the registers for each.
        m.submodules.registers = registers = Memory(shape=REGISTER_BITS, depth=REGISTERS, init=[])
        put = registers.write_port()

        def register(number):
            port = registers.read_port(domain="comb")
            m.d.comb += port.addr.eq(number)
            return port.data

        word, resolved = Signal(Instruction), Signal(Instruction)
        control = data.View(data.Layout.cast(ControlInstruction), resolved.as_value())
        long = Signal(REGISTER_BITS)
        m.d.comb += long.eq(word.long.imm + Mux(word.unit == Unit.CONTROL, 0, register(word.long.reg)))
        shorts = [word.short[i].imm + register(word.short[i].reg)[:16] for i in range(4)]
        a, b = Signal(signed(REGISTER_BITS)), Signal(signed(REGISTER_BITS))
        undecided = data.View(data.Layout.cast(ControlInstruction), word.as_value())
        next_a, next_b = register(undecided.ra), register(undecided.rb)

        value = control.value.imm
        result = Signal(REGISTER_BITS)
        less, equal = Signal(), Signal()
        m.d.comb += [less.eq(a < b), equal.eq(a == b)]
        writes, jump = Signal(), Signal()
        with m.Switch(control.operation):
            for operation, expression in {
                Operation.ADDI: a + value, Operation.ADD: a + b, Operation.SUB: a - b,
                Operation.SHL: a << value[:5], Operation.SHR: a >> value[:5], Operation.ANDI: a & value,
                Operation.MULI: a[:24] * value[:16], Operation.MIN: Mux(less, a, b),
            }.items():
                with m.Case(operation):
                    m.d.comb += [result.eq(expression), writes.eq(control.rd != 0)]
            for operation, condition in {Operation.BEQ: equal, Operation.BNE: ~equal, Operation.BLT: less,
                                         Operation.BGE: ~less}.items():
                with m.Case(operation):
                    m.d.comb += jump.eq(condition)

        boot_instruction = Signal(LoadInstruction)
        m.d.comb += [
            boot_instruction.address.imm.eq(self.program_address),
            boot_instruction.count.imm.eq(self.program_length),
            boot_instruction.element.eq(LoadFormat.PROGRAM),
            self.control_wait.eq(control.wait), self.control_signal.eq(control.signal),
        ]
        index = Signal(range(REGISTERS + 1))
        own = Signal()  # the sequencer itself writes a register

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.finished.eq(0), self.running.eq(1), self.error.eq(ErrorCode.NONE),
                                 self.exit_code.eq(0), self.pc.eq(0), index.eq(0)]
                    m.d.comb += self.clear.eq(1)
                    m.next = "BOOT"
            with m.State("BOOT"):
                m.d.comb += [self.queue.payload.eq(boot_instruction.as_value()), self.queue.valid.eq(1)]
                with m.If(self.queue.ready):
                    m.next = "LOADING"
            with m.State("LOADING"):
                with m.If(self.load_ended):
                    m.next = "REGISTERS"
            with m.State("REGISTERS"):
                arguments = Cat(self.arguments.as_value()).word_select((index - 1)[:2], 32).as_signed()
                is_argument = (index >= 1) & (index <= ARGUMENTS)
                m.d.comb += [put.addr.eq(index), own.eq(1), put.data.eq(Mux(is_argument, arguments, 0))]
                m.d.sync += index.eq(index + 1)
                with m.If(index == REGISTERS - 1):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "READ"
            with m.State("READ"):
                m.d.sync += word.eq(fetch.data)
                m.next = "RESOLVE"
            with m.State("RESOLVE"):
                m.d.sync += [resolved.eq(word), resolved.long.imm.eq(long), a.eq(next_a), b.eq(next_b)]
                m.d.sync += [resolved.short[i].imm.eq(s) for i, s in enumerate(shorts)]
                m.next = "HAND_OUT"
                with m.If(word.unit == Unit.CONTROL):
                    m.next = "EXECUTE"
                with m.Elif(word.unit > Unit.CONTROL):
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                    m.next = "STOP"
            with m.State("HAND_OUT"):
                m.d.comb += [self.queue.valid.eq(1), self.queue.payload.eq(resolved)]
                with m.If(self.queue.ready):
                    m.d.sync += self.pc.eq(self.pc + 1)
                    m.next = "FETCH"
            with m.State("EXECUTE"):
                with m.If(self.control_granted):
                    with m.If(control.operation == Operation.END):
                        with m.If(self.idle):
                            m.d.comb += self.control_take.eq(1)
                            m.d.sync += self.exit_code.eq(value[:8])
                            with m.If(value[:8] != 0):
                                m.d.sync += self.error.eq(ErrorCode.PROGRAM_EXIT)
                            m.next = "STOP"
                    with m.Elif(control.operation > Operation.END):
                        m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                        m.next = "STOP"
                    with m.Else():
                        m.d.comb += [self.control_take.eq(1), put.addr.eq(control.rd), put.data.eq(result),
                                     own.eq(writes)]
                        m.d.sync += self.pc.eq(Mux(jump, control.target.imm, self.pc + 1))
                        m.next = "FETCH"
            with m.State("STOP"):
                m.d.sync += [self.running.eq(0), self.finished.eq(1)]
                m.next = "IDLE"
        # A loaded register waits for a cycle in which the sequencer writes none.
        m.d.comb += [self.register_taken.eq(self.register_write & ~own), put.en.eq(own)]
        with m.If(self.register_taken):
            m.d.comb += [put.addr.eq(self.register_number), put.data.eq(self.register_value),
                         put.en.eq(self.register_number != 0)]
        # The first thing that goes wrong is reported; the program does not go on.
        with m.If(self.running & (self.read_error | self.write_error | self.overflow)):
            m.d.sync += [
                self.error.eq(Mux(self.read_error, ErrorCode.BUS_READ, Mux(
                    self.write_error, ErrorCode.BUS_WRITE, ErrorCode.SEMAPHORE_OVERFLOW))),
                self.running.eq(0), self.finished.eq(1),
            ]
        return m
