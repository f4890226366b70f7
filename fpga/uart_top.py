"""The accelerator with its model in block RAM and a serial port: everything of a board but clock and pins."""

import numpy as np
from amaranth.hdl import ClockSignal, Const, Instance, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from wordline.compiler.program import Program
from wordline.fpga.block_memory import BlockMemory, Layout
from wordline.fpga.host import BytePairs, Host, ProgramPlace
from wordline.fpga.uart import UartReceiver, UartTransmitter
from wordline.rtl.axi import Axi4, AxiLite
from wordline.rtl.config import Config, ConfigError

#: The region of the image that goes into the ninth bits: a token reads one row of it.
READ_ONLY = "embedding"


class UartTop(wiring.Component):
    """Host, memory and accelerator (an instance of the Verilog module ``accelerator``).

    Parameters
    ----------
    program : Program
        Compiled for `config` without logits.
    eos : int, the token that ends a text
    divisor : int, clock cycles per bit of the serial port

    Members
    -------
    rx, tx : In/Out, the serial port
    running : Out, a program is under way
    """

    def __init__(self, config: Config, program: Program, pairs: BytePairs, *, eos: int, divisor: int):
        if config.bus.data_bits != 64:
            raise ConfigError(f"bus.data_bits = {config.bus.data_bits}: a model in block RAM is read 64 bits at a time")
        self.config, self.program, self.pairs, self.divisor = config, program, pairs, divisor
        image = np.zeros(program.memory_size, np.uint8)
        program.place(image)
        region = program.symbols[READ_ONLY]
        self.layout = Layout.of(program.memory_size, region.address, region.size, program.written())
        self.image = image
        tokens = program.symbols["tokens"]
        self.place = ProgramPlace(program.symbols["program"].address, len(program.instructions), tokens.address,
                                  int(str(program.info["context"])), eos)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "running": Out(1)})  # type: ignore[call-arg]

    def elaborate(self, platform):
        m = Module()
        bits = self.config.bus.address_bits
        m.submodules.memory = memory = BlockMemory(self.layout, self.image, address_bits=bits)
        m.submodules.host = host = Host(self.pairs, self.place, address_bits=bits)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        axi, control, finished = place_accelerator(m, self.config)
        join(m, axi, memory.axi)
        connect(m, host.control, control)
        connect(m, host.write, memory.host)
        connect(m, host.text, transmitter.bytes)
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            host.received.eq(receiver.byte), host.received_valid.eq(receiver.valid),
            host.wrote.eq(memory.wrote), host.wrote_address.eq(memory.wrote_address),
            host.wrote_word.eq(memory.wrote_word),
            host.finished.eq(finished), self.running.eq(~finished),
        ]
        return m


def place_accelerator(m: Module, config: Config):
    """An instance of the Verilog module ``accelerator``: its AXI4 master, its control registers, and a signal that a
    program has ended."""
    axi = Axi4(data_bits=config.bus.data_bits, address_bits=config.bus.address_bits).create(path=("axi",))
    control = AxiLite().flip().create(path=("control",))
    finished = Signal()
    m.submodules.accelerator = Instance(
        "accelerator", i_clk=ClockSignal(), i_rst=ResetSignal(), i_fault=Const(0), o_irq=finished,
        **connections("m_axi_", axi), **connections("s_axi_control_", control))
    return axi, control, finished


def connections(prefix: str, interface) -> dict:
    """Ports of an instance that drives every output of `interface`."""
    return {("o_" if member.flow == Out else "i_") + prefix + name: getattr(interface, name)
            for name, member in interface.signature.members.items()}


def join(m: Module, master, slave) -> None:
    for name, member in master.signature.members.items():
        ours, theirs = getattr(master, name), getattr(slave, name)
        m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)
