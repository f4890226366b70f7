"""CONTROL: fetches instructions, adds registers to operands, hands them out, executes its own."""

from amaranth.hdl import Module, Mux, Signal, Value, signed
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
#: From the end of the boot's load to the fetch of instruction 0: the registers are written one by one.
BOOT_CYCLES = REGISTERS + 1
#: From END (or an error, when every unit is idle) to `finished`: so long must the weight FIFO be empty.
QUIET_CYCLES = 4


class Sequencer(wiring.Component):
    """Boots the program into its memory and runs it, an instruction every `CYCLES` cycles.

    An instruction fetched in cycle c is put into its queue, or executed, in cycle c+3 or as soon after as the
    queue has room, or its semaphores are there; the next is fetched in the following cycle, branches
    included. `running` rises two cycles after `start`, with the boot's load in its queue; its end in
    cycle d is followed by the first fetch in d + `BOOT_CYCLES`. END in cycle e: `finished` rises
    (and `running` falls) in e + `QUIET_CYCLES` + 1.

    After an error no instruction is fetched, the queues are flushed, and the program is finished when
    the units have ended what they had begun; `flush` tells the core to feed the array, which may wait for
    weights that nobody will stream, and to empty the weight FIFO. So a start finds everything fresh.

    Members
    -------
    start, running, finished, error, exit_code : from and to the control registers
    program_address, program_length, arguments : In
    program : In(WritePort) of the program memory, from the load unit
    register_write, register_number, register_value, register_taken : results of LoadFormat.REGISTER
    queue, control_*, idle, load_ended, overflow : to and from `Dispatch`
    flush : Out, high whenever no program is under way
    empty : In, no beat in the weight FIFO
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
            "flush": Out(1), "idle": In(1), "empty": In(1), "load_ended": In(1), "overflow": In(1),
            "read_error": In(1), "write_error": In(1),
            "pc": Out(16),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=INSTRUCTION_BITS, depth=self.depth, init=[])
        write, fetch = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.addr.eq(self.program.addr), write.data.eq(self.program.data),
            write.en.eq(self.program.en), fetch.addr.eq(self.pc),
        ]

        # Every operand reads its register at once; the memory has a copy for each.
        m.submodules.registers = registers = Memory(shape=REGISTER_BITS, depth=REGISTERS, init=[])
        write_register, put = registers.write_port(), Signal(data.StructLayout({
            "addr": range(REGISTERS), "data": REGISTER_BITS, "en": 1}))
        # A register between: nobody reads what was written before three cycles have passed.
        late, late_result, computed = Signal.like(put), Signal(REGISTER_BITS), Signal()
        m.d.sync += late.eq(put)
        m.d.comb += [write_register.addr.eq(late.addr), write_register.en.eq(late.en),
                     write_register.data.eq(Mux(computed, late_result, late.data))]

        def register(number: Value) -> Value:
            port = registers.read_port(domain="comb")
            m.d.comb += port.addr.eq(number)
            return port.data

        word, resolved = Signal(Instruction), Signal(Instruction)
        undecided = data.View(data.Layout.cast(ControlInstruction), word.as_value())
        control = data.View(data.Layout.cast(ControlInstruction), resolved.as_value())
        long = Signal(REGISTER_BITS)
        m.d.comb += long.eq(
            word.long.imm + Mux(word.unit == Unit.CONTROL, 0, register(word.long.reg)))
        shorts = [short.imm + register(short.reg)[:16] for short in (word.short[i] for i in range(4))]
        a, b = Signal(signed(REGISTER_BITS)), Signal(signed(REGISTER_BITS))
        next_a, next_b = register(undecided.ra), register(undecided.rb)

        result, writes, jump = Signal(REGISTER_BITS), Signal(), Signal()
        self._execute(m, control, a, b, result, writes, jump)
        m.d.sync += [late_result.eq(result), computed.eq(0)]
        m.d.comb += [self.control_wait.eq(control.wait), self.control_signal.eq(control.signal)]

        boot = Signal(LoadInstruction)
        m.d.comb += [
            boot.address.imm.eq(self.program_address), boot.count.imm.eq(self.program_length),
            boot.element.eq(LoadFormat.PROGRAM),
        ]

        index = Signal(range(REGISTERS))
        own = Signal()  # the sequencer itself writes a register
        quiet = Signal(range(QUIET_CYCLES))
        stop = self.error != ErrorCode.NONE

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.flush.eq(1)
                with m.If(self.start):
                    m.d.sync += [
                        self.finished.eq(0), self.running.eq(1), self.error.eq(ErrorCode.NONE),
                        self.exit_code.eq(0), self.pc.eq(0), index.eq(0), quiet.eq(0),
                    ]
                    m.next = "BOOT"
            with m.State("BOOT"):
                m.d.comb += [self.queue.payload.eq(boot.as_value()), self.queue.valid.eq(1)]
                m.next = "LOADING"
                with m.If((self.program_length == 0) | (self.program_length > self.depth)):
                    m.d.comb += self.queue.valid.eq(0)
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                    m.next = "FLUSH"
            with m.State("LOADING"):
                with m.If(self.load_ended):
                    m.next = "REGISTERS"
            with m.State("REGISTERS"):
                argument = (index >= 1) & (index <= ARGUMENTS)
                m.d.comb += [
                    put.addr.eq(index), own.eq(1),
                    put.data.eq(Mux(argument, self.arguments[(index - 1)[:2]], 0)),
                ]
                m.d.sync += index.eq(index + 1)
                with m.If(index == REGISTERS - 1):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.next = "READ"
                with m.If(stop):
                    m.next = "FLUSH"
                with m.Elif(self.pc >= self.program_length):
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                    m.next = "FLUSH"
            with m.State("READ"):
                m.d.sync += word.eq(fetch.data)
                m.next = "RESOLVE"
            with m.State("RESOLVE"):
                m.d.sync += [
                    resolved.eq(word), resolved.long.imm.eq(long), a.eq(next_a), b.eq(next_b)]
                m.d.sync += [resolved.short[i].imm.eq(s) for i, s in enumerate(shorts)]
                m.next = "HAND_OUT"
                with m.If(word.unit == Unit.CONTROL):
                    m.next = "EXECUTE"
                with m.Elif(word.unit > Unit.CONTROL):
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                    m.next = "FLUSH"
            with m.State("HAND_OUT"):
                m.d.comb += [self.queue.valid.eq(1), self.queue.payload.eq(resolved)]
                with m.If(self.queue.ready):
                    m.d.sync += self.pc.eq(self.pc + 1)
                    m.next = "FETCH"
                with m.Elif(stop):
                    m.next = "FLUSH"
            with m.State("EXECUTE"):
                with m.If(stop):
                    m.next = "FLUSH"
                with m.Elif(control.operation > Operation.END):
                    m.d.sync += self.error.eq(ErrorCode.ILLEGAL_INSTRUCTION)
                    m.next = "FLUSH"
                with m.Elif(self.control_granted):
                    with m.If(control.operation != Operation.END):
                        m.d.comb += [self.control_take.eq(1), put.addr.eq(control.rd), own.eq(writes)]
                        m.d.sync += computed.eq(writes)
                        m.d.sync += self.pc.eq(Mux(jump, control.target.imm, self.pc + 1))
                        m.next = "FETCH"
                    with m.Elif(self.idle):
                        m.d.comb += self.control_take.eq(1)
                        code = control.value.imm[:8]
                        m.d.sync += self.exit_code.eq(code)
                        with m.If(code != 0):
                            m.d.sync += self.error.eq(ErrorCode.PROGRAM_EXIT)
                        m.next = "FLUSH"
            with m.State("FLUSH"):
                # A beat on its way through the FIFO does not show in every cycle.
                m.d.comb += self.flush.eq(1)
                m.d.sync += quiet.eq(Mux(self.idle & self.empty, quiet + 1, 0))
                with m.If(self.idle & self.empty & (quiet == QUIET_CYCLES - 1)):
                    m.d.sync += [self.running.eq(0), self.finished.eq(1)]
                    m.next = "IDLE"

        # The first thing that goes wrong is reported.
        fault = self.read_error | self.write_error | self.overflow
        with m.If(self.running & fault & ~stop):
            m.d.sync += self.error.eq(Mux(self.read_error, ErrorCode.BUS_READ, Mux(
                self.write_error, ErrorCode.BUS_WRITE, ErrorCode.SEMAPHORE_OVERFLOW)))

        # A loaded register waits for a cycle in which the sequencer writes none.
        m.d.comb += [self.register_taken.eq(self.register_write & ~own), put.en.eq(own)]
        with m.If(self.register_taken):
            m.d.comb += [
                put.addr.eq(self.register_number), put.data.eq(self.register_value),
                put.en.eq(self.register_number != 0),
            ]
        return m

    def _execute(self, m: Module, control, a: Value, b: Value, result: Signal, writes: Signal,
                 jump: Signal) -> None:
        """The control instruction's result, whether it writes a register, whether it jumps."""
        value = control.value.imm
        less, equal = Signal(), Signal()
        m.d.comb += [less.eq(a < b), equal.eq(a == b)]
        results = {
            Operation.ADDI: a + value, Operation.ADD: a + b, Operation.SUB: a - b,
            Operation.SHL: a << value[:5], Operation.SHR: a >> value[:5], Operation.ANDI: a & value,
            Operation.MULI: a[:24] * value[:16], Operation.MIN: Mux(less, a, b),
        }
        jumps = {Operation.BEQ: equal, Operation.BNE: ~equal, Operation.BLT: less, Operation.BGE: ~less}
        with m.Switch(control.operation):
            for operation, expression in results.items():
                with m.Case(operation):
                    m.d.comb += [result.eq(expression), writes.eq(control.rd != 0)]
            for operation, condition in jumps.items():
                with m.Case(operation):
                    m.d.comb += jump.eq(condition)
