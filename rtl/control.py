"""The control registers: an AXI4-Lite slave with the map `rtl.isa.Csr`."""

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.rtl.axi import AxiLite
from wordline.rtl.isa import UNITS, Csr, ErrorCode
from wordline.rtl.sequencer import ARGUMENTS

#: What the watchdog starts with: some milliseconds, far beyond any memory's latency.
WATCHDOG = 1 << 20


class Control(wiring.Component):
    """Start, status, arguments, and counters that run while a program does.

    Parameters
    ----------
    hardware : int, 64 bits that a host reads to know which hardware this is (`Config.hardware_hash`)

    Members
    -------
    bus : In(AxiLite); one access at a time, no wait states beyond that
    start, program_address, program_length, arguments : Out, to the sequencer
    running, finished, error, exit_code : In, from it
    memory_base : Out, physical address of what programs call address 0
    watchdog : Out, cycles without movement on the bus after which `AxiGuard` gives the memory up
    fault : In, it has
    busy, ended : In, per unit
    """

    def __init__(self, hardware: int = 0):
        self.hardware = hardware
        super().__init__({
            "bus": In(AxiLite()), "watchdog": Out(32, init=WATCHDOG), "fault": In(1), "memory_base": Out(40),  # type: ignore[call-arg]
            "start": Out(1), "program_address": Out(40), "program_length": Out(16),
            "arguments": Out(data.ArrayLayout(signed(32), ARGUMENTS)),
            "running": In(1), "finished": In(1), "error": In(ErrorCode), "exit_code": In(8),
            "busy": In(UNITS), "ended": In(UNITS),
        })

    def elaborate(self, platform):
        m = Module()
        bus = self.bus
        cycles = Signal(64)
        busy = [Signal(32, name=f"busy_{i}") for i in range(UNITS)]
        ended = [Signal(32, name=f"ended_{i}") for i in range(UNITS)]
        # The counters lag by a cycle: what they count comes from far away.
        was_busy, was_ended = Signal(UNITS), Signal(UNITS)
        during = self.running.replicate(UNITS)
        m.d.sync += [was_busy.eq(self.busy & during), was_ended.eq(self.ended & during)]
        with m.If(self.running):
            m.d.sync += cycles.eq(cycles + 1)
        for i in range(UNITS):
            m.d.sync += [busy[i].eq(busy[i] + was_busy[i]), ended[i].eq(ended[i] + was_ended[i])]

        # Writes: address and data are taken together.
        write = Signal()
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)),
            bus.awready.eq(write), bus.wready.eq(write),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        m.d.sync += self.start.eq(0)
        with m.If(write):
            m.d.sync += bus.bvalid.eq(1)
            with m.Switch(Cat(Const(0, 2), bus.awaddr[2:])):
                with m.Case(Csr.CONTROL):
                    with m.If(bus.wdata[0] & ~self.running):
                        m.d.sync += [self.start.eq(1), cycles.eq(0)]
                        m.d.sync += [counter.eq(0) for counter in busy + ended]
                with m.Case(Csr.PROGRAM_LOW):
                    m.d.sync += self.program_address[:32].eq(bus.wdata)
                with m.Case(Csr.PROGRAM_HIGH):
                    m.d.sync += self.program_address[32:].eq(bus.wdata)
                with m.Case(Csr.PROGRAM_LENGTH):
                    m.d.sync += self.program_length.eq(bus.wdata)
                with m.Case(Csr.MEMORY_LOW):
                    m.d.sync += self.memory_base[12:32].eq(bus.wdata[12:])
                with m.Case(Csr.MEMORY_HIGH):
                    m.d.sync += self.memory_base[32:].eq(bus.wdata)
                with m.Case(Csr.WATCHDOG):
                    m.d.sync += self.watchdog.eq(bus.wdata)
                for i in range(ARGUMENTS):
                    with m.Case(Csr.ARGUMENT1 + 4 * i):
                        m.d.sync += self.arguments[i].eq(bus.wdata)

        read = Signal()
        m.d.comb += [read.eq(bus.arvalid & (~bus.rvalid | bus.rready)), bus.arready.eq(read)]
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        status = Cat(self.running | self.start, self.finished & ~self.start, Const(0, 2), self.error,
                     self.exit_code)
        registers = {
            Csr.STATUS: status, Csr.PROGRAM_LOW: self.program_address[:32],
            Csr.PROGRAM_HIGH: self.program_address[32:], Csr.PROGRAM_LENGTH: self.program_length,
            Csr.CYCLES_LOW: cycles[:32], Csr.CYCLES_HIGH: cycles[32:],
            Csr.MEMORY_LOW: self.memory_base[:32], Csr.MEMORY_HIGH: self.memory_base[32:],
            Csr.FAULT: self.fault, Csr.WATCHDOG: self.watchdog,
            Csr.HARDWARE_LOW: self.hardware & 0xFFFFFFFF, Csr.HARDWARE_HIGH: self.hardware >> 32,
        } | {Csr.ARGUMENT1 + 4 * i: self.arguments[i] for i in range(ARGUMENTS)}
        registers |= {Csr.BUSY + 4 * i: busy[i] for i in range(UNITS)}
        registers |= {Csr.ENDED + 4 * i: ended[i] for i in range(UNITS)}
        with m.If(read):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0)]
            with m.Switch(Cat(Const(0, 2), bus.araddr[2:])):
                for address, value in registers.items():
                    with m.Case(address):
                        m.d.sync += bus.rdata.eq(value)
        return m
