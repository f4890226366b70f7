"""The accelerator with its model in SDRAM and a serial port: everything of such a board but clock and pins."""

from amaranth.hdl import Const, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from wordline.fpga.uart import UartReceiver, UartTransmitter
from wordline.fpga.uart_bridge import DATA_BITS, SILENCE, MemoryShare, UartBridge
from wordline.fpga.uart_top import join, place_accelerator
from wordline.rtl.config import Config, ConfigError
from wordline.rtl.isa import Csr
from wordline.rtl.sdram import SdramController, SdramPins, SdramTiming


class SdramTop(wiring.Component):
    """Serial port, SDRAM and accelerator (an instance of the Verilog module ``accelerator``).

    A computer places program and model in memory, frame by frame with checksums, starts the program and reads what it
    has written: `fpga.uart_link` and `fpga.driver`.

    Members
    -------
    rx, tx : In/Out, the serial port
    sdram : Out(SdramPins)
    running : Out, a program is under way
    """

    def __init__(self, config: Config, timing: SdramTiming, *, divisor: int, silence: int = SILENCE):
        if config.bus.data_bits != DATA_BITS:
            raise ConfigError(f"bus.data_bits = {config.bus.data_bits}: the SDRAM's bus has {DATA_BITS} bits")
        self.config, self.timing, self.divisor, self.silence = config, timing, divisor, silence
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "running": Out(1),  # type: ignore[call-arg]
                          "sdram": Out(SdramPins(timing))})

    def elaborate(self, platform):
        m = Module()
        bits = self.config.bus.address_bits
        m.submodules.sdram = sdram = SdramController(self.timing, address_bits=bits)
        m.submodules.share = share = MemoryShare(address_bits=bits)
        m.submodules.bridge = bridge = UartBridge(address_bits=bits, silence=self.silence)
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        axi, control, finished = place_accelerator(m, self.config)
        join(m, axi, share.accelerator)
        connect(m, bridge.memory, share.bridge)
        connect(m, share.slave, sdram.axi)
        connect(m, bridge.control, control)
        connect(m, bridge.sent, transmitter.bytes)
        connect(m, sdram.pins, flipped(self.sdram))
        # From the write that starts a program to its end: for two cycles after that write `finished` is still that of
        # the last program, so only its rise counts.
        before = Signal()
        bus = bridge.control
        starts = bus.awvalid & bus.awready & (bus.awaddr == Csr.CONTROL) & bus.wdata[0]
        m.d.sync += before.eq(finished)
        with m.If(starts):
            m.d.sync += self.running.eq(1)
        with m.Elif(finished & ~before):
            m.d.sync += self.running.eq(0)
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            bridge.received.eq(receiver.byte), bridge.received_valid.eq(receiver.valid),
            bridge.running.eq(self.running), share.running.eq(self.running),
        ]
        return m


class SdramPads(wiring.Component):
    """The pads of a board's chip, ``sdram`` 0 of the platform, with the controller's clock inverted.

    Members
    -------
    pins : In(SdramPins)
    """

    def __init__(self, timing: SdramTiming):
        super().__init__({"pins": In(SdramPins(timing))})

    def elaborate(self, platform):
        m = Module()
        pins, pads = self.pins, platform.request("sdram", 0, dir="-")
        m.submodules.clock = clock = io.DDRBuffer("o", pads.clk)
        m.d.comb += [clock.o[0].eq(0), clock.o[1].eq(1)]  # high in the second half of a cycle
        # RAS, CAS and WE are active low: the platform's ports turn them round, as they do CS.
        outputs = {"clk_en": pins.cke, "cs": Const(1, 1), "ras": ~pins.command.as_value()[2],
                   "cas": ~pins.command.as_value()[1], "we": ~pins.command.as_value()[0],
                   "ba": pins.ba, "a": pins.a, "dqm": pins.dqm}
        for name, value in outputs.items():
            m.submodules[name] = buffer = io.Buffer("o", getattr(pads, name))
            m.d.comb += buffer.o.eq(value)
        m.submodules.dq = dq = io.Buffer("io", pads.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
        return m
