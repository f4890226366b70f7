"""The accelerator's registers and memory behind two AXI4-Streams of bytes, as Ethernet, PCIe or USB cores have them."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from wordline.fpga.uart_bridge import DATA_BITS, UartBridge
from wordline.rtl.axi import Axi4, AxiLite, AxiStream


class StreamBridge(wiring.Component):
    """The frames of `fpga.uart_bridge` on streams: a byte a clock, and it waits while memory does.

    A frame may come in packets of any size (``tlast`` is not looked at); an answer is a packet.

    Members
    -------
    s_axis : In(AxiStream), m_axis : Out(AxiStream)
    memory, control, running : as of `UartBridge`
    """

    def __init__(self, *, address_bits: int):
        self.address_bits = address_bits
        super().__init__({
            "s_axis": In(AxiStream(data_bits=8)), "m_axis": Out(AxiStream(data_bits=8)),
            "memory": Out(Axi4(data_bits=DATA_BITS, address_bits=address_bits)), "control": Out(AxiLite()),
            "running": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = bridge = UartBridge(address_bits=self.address_bits)
        connect(m, bridge.memory, flipped(self.memory))
        connect(m, bridge.control, flipped(self.control))
        m.d.comb += [
            bridge.received.eq(self.s_axis.tdata), bridge.received_valid.eq(self.s_axis.tvalid & bridge.ready),
            self.s_axis.tready.eq(bridge.ready), bridge.running.eq(self.running),
            self.m_axis.tdata.eq(bridge.sent.payload), self.m_axis.tvalid.eq(bridge.sent.valid),
            self.m_axis.tlast.eq(bridge.sent_last), bridge.sent.ready.eq(self.m_axis.tready),
        ]
        return m
