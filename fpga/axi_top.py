"""The accelerator as IP: AXI4-Lite for control, as many AXI4 ports as its bus needs, a watchdog between."""

from typing import Any

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from wordline.rtl.axi import Axi4, AxiLite
from wordline.rtl.axi_guard import AxiGuard
from wordline.rtl.axi_split import AxiSplit
from wordline.rtl.config import Config, ConfigError
from wordline.rtl.isa import UNITS
from wordline.rtl.verilog import convert

ADDRESS_BITS = 40
#: The widest port of a Zynq UltraScale+ processing system.
PORT_BITS = 128


def port_count(config: Config) -> int:
    return max(1, config.bus.data_bits // PORT_BITS)


def axi_interfaces(config: Config) -> list[tuple[str, Any]]:
    """Prefix and signature of every AXI interface, members as seen from outside.

    Raises
    ------
    ConfigError
        The configuration has several ports already.
    """
    if config.bus.ports > 1:
        raise ConfigError(f"bus.ports = {config.bus.ports}: the IP splits the accelerator's one port itself: set "
                          "bus.ports to 1, or use the Verilog of `wordline gen`")
    port = Axi4(data_bits=min(PORT_BITS, config.bus.data_bits), address_bits=ADDRESS_BITS)
    return [("s_axi_control_", AxiLite().flip()), *((f"m_axi_gmem{i}_", port) for i in range(port_count(config)))]


class AxiTop(wiring.Component):
    """Ports are flat: ``s_axi_control_*``, ``m_axi_gmem0_*`` and on, ``irq``.

    Around the Verilog module ``accelerator``: guard, then split. Time in the cycle model is that of the accelerator;
    guard and split add a few cycles of latency to every read, which belong to `dram.latency`.
    """

    def __init__(self, config: Config):
        self.config = config
        self.interfaces = axi_interfaces(config)
        self.ports = [prefix for prefix, _ in self.interfaces[1:]]
        self.narrow = min(PORT_BITS, config.bus.data_bits)
        members: dict = {"irq": Out(1)}
        for prefix, signature in self.interfaces:
            for name, member in signature.members.items():
                members[prefix + name] = member
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        bus = self.config.bus
        m.submodules.guard = guard = AxiGuard(data_bits=bus.data_bits, address_bits=bus.address_bits)
        m.submodules.split = split = AxiSplit(wide=bus.data_bits, narrow=self.narrow, ports=len(self.ports),
                                              address_bits=bus.address_bits, port_address_bits=ADDRESS_BITS)
        axi = Axi4(data_bits=bus.data_bits, address_bits=bus.address_bits).create(path=("axi",))
        finished = Signal()
        control = {prefix + name: (prefix, name) for prefix, signature in self.interfaces[:1]
                   for name in signature.members}
        ports = {("i_" if self.signature.members[name].flow == In else "o_") + name: getattr(self, name)
                 for name in control}
        ports |= {("o_" if member.flow == Out else "i_") + f"m_axi_{name}": getattr(axi, name)
                  for name, member in axi.signature.members.items()}
        base, limit = Signal(ADDRESS_BITS), Signal(32)
        m.submodules.accelerator = Instance(
            "accelerator", i_clk=ClockSignal(), i_rst=ResetSignal(), o_irq=finished, i_fault=guard.expired,
            o_watchdog=limit, o_memory_base=base, o_trace_start=Signal(UNITS), o_trace_done=Signal(UNITS),
            o_trace_pc=Signal(16), **ports)
        for name, member in axi.signature.members.items():
            ours, theirs = getattr(axi, name), getattr(guard.master, name)
            m.d.comb += theirs.eq(ours) if member.flow == Out else ours.eq(theirs)
        connect(m, guard.memory, split.master)
        # Of the program the guard may know only later than the memory's silence: idle is the end of the last one.
        m.d.comb += [guard.limit.eq(limit), guard.idle.eq(finished), split.base.eq(base), self.irq.eq(finished)]
        for prefix, port in zip(self.ports, split.ports, strict=True):
            for name, member in port.signature.members.items():
                ours, theirs = getattr(self, prefix + name), getattr(port, name)
                m.d.comb += ours.eq(theirs) if member.flow == Out else theirs.eq(ours)
        return m


def axi_top_verilog(config: Config) -> str:
    """Verilog of the module ``axi_top``."""
    return convert(AxiTop(config), "axi_top")
