"""An accelerator as IP for other people's flows: `wordline gen CONFIG --target kv260 -o DIR`.

hdl/           one flat Verilog-2001 file; ports ``s_axi_control`` and ``m_axi_gmem0`` on
component.xml  IP-XACT; package_ip.tcl for Vivado, block_design.tcl for devices with a processing system
*.core         FuseSoC, with a lint target; *_litex.py  LiteX
software/      register map as C header, Python driver, self-test (program and expected result)
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from amaranth.hdl import Shape

from wordline.fpga import driver
from wordline.fpga.axi_top import ADDRESS_BITS, PORT_BITS, axi_interfaces, axi_top_verilog
from wordline.fpga.block_design import block_design
from wordline.fpga.devices import Device, find_device
from wordline.fpga.ipxact import component_xml
from wordline.fpga.memories import place
from wordline.fpga.netlist import Netlist, style_memories
from wordline.fpga.selftest import selftest
from wordline.rtl.config import Config, ConfigError
from wordline.rtl.isa import Csr

VERSION = "1.0"
#: Warnings of Verilator's -Wall that generated Verilog gives by its nature, and why each is harmless.
LINT = {
    "UNUSEDSIGNAL": "every intermediate value has a name; upper bits that nobody reads stay with it",
    "PROCASSINIT": "a register's reset value is also its value at configuration",
    "WIDTHTRUNC": "Yosys writes assignments that drop upper bits without a part select",
    "WIDTHEXPAND": "Yosys writes operators whose narrower operand Verilog extends by itself",
    "CASEINCOMPLETE": "what a case sets has its default before it, or holds its value",
    "LATCH": "a selector with a constant bit has values that never come, of which a case says nothing (mixpe)",
    "DECLFILENAME": "one flat file holds all modules",
    "SYMRSVDWORD": "a port is called interrupt, as flows expect; no C++ is made of it here",
    "ASCRANGE": "a value of no bits is written as [-1:0] and read by nobody",
}


@dataclass(frozen=True)
class Interface:
    """One AXI interface of the wrapper: its name, whether it is a master, and its ports as (name, output, width)."""

    name: str
    master: bool
    ports: list[tuple[str, bool, int]]


def interfaces(config: Config) -> list[Interface]:
    """The wrapper's interfaces, as seen from outside."""
    found = []
    for prefix, signature in axi_interfaces(config):
        master = prefix.startswith("m_")
        ports = [(name, member.flow.name == "Out", Shape.cast(member.shape).width)
                 for name, member in signature.members.items()]
        found.append(Interface(prefix.rstrip("_"), master, ports))
    return found


#: Signals of a master that say what kind of memory it wants: normal, not cacheable, bufferable; data, secure.
_CONSTANT = [("awcache", 4, 3), ("awprot", 3, 0), ("arcache", 4, 3), ("arprot", 3, 0)]


def module_name(config: Config) -> str:
    return "wordline_" + re.sub(r"\W", "_", config.name)


def wrapper(config: Config) -> str:
    """The top module: Vivado's names for clock and reset, X_INTERFACE attributes on every port."""
    ports, connections, assigns = [], [], []
    parts = interfaces(config)
    busses = ":".join(part.name for part in parts)
    ports.append('  (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 ap_clk CLK" *)\n'
                 f'  (* X_INTERFACE_PARAMETER = "ASSOCIATED_BUSIF {busses}, ASSOCIATED_RESET ap_rst_n" *)\n'
                 "  input ap_clk")
    ports.append('  (* X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 ap_rst_n RST" *)\n'
                 '  (* X_INTERFACE_PARAMETER = "POLARITY ACTIVE_LOW" *)\n  input ap_rst_n')
    ports.append('  (* X_INTERFACE_INFO = "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT" *)\n'
                 '  (* X_INTERFACE_PARAMETER = "SENSITIVITY LEVEL_HIGH" *)\n  output interrupt')
    for part in parts:
        members = part.ports + ([(name, True, width) for name, width, _ in _CONSTANT] if part.master else [])
        for name, output, width in members:
            size = f"[{width - 1}:0] " if width > 1 else ""
            ports.append(f'  (* X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 {part.name} {name.upper()}" *)\n'
                         f"  {'output' if output else 'input'} {size}{part.name}_{name}")
        connections += [f"    .{part.name}_{name}({part.name}_{name})" for name, _, _ in part.ports]
        if part.master:
            assigns += [f"  assign {part.name}_{name} = {width}'d{value};" for name, width, value in _CONSTANT]
    inner = ",\n".join(["    .clk(ap_clk)", "    .rst(rst)", "    .irq(interrupt)", *connections])
    return (f"module {module_name(config)} (\n" + ",\n".join(ports) + "\n);\n"
            "  // Resets of processing systems fall at any time: two registers bring them to the clock.\n"
            "  reg rst_meta = 1'b1;\n  reg rst = 1'b1;\n"
            "  always @(posedge ap_clk) begin\n    rst_meta <= ~ap_rst_n;\n    rst <= rst_meta;\n  end\n"
            + "\n".join(assigns) + f"\n  axi_top core (\n{inner}\n  );\nendmodule\n")


def flat_verilog(config: Config, sources: dict[str, str], device: Device) -> str:
    """Everything in one file; memories carry the ``ram_style`` that was counted (`fpga.memories`)."""
    texts = [*(sources[name] for name in sorted(sources)), axi_top_verilog(config)]
    netlist = Netlist(texts, "axi_top")
    placement = place(netlist, urams=device.capacity["URAM"], brams=device.capacity["BRAM36"])
    modules = []
    for module in netlist.modules.values():
        modules.append(f"module {module.name} ({module.ports});\n"
                       f"{style_memories(module.body, placement.of(module.name))}endmodule\n")
    return (f"// Wordline {config.name}, hardware {config.hardware_hash()}. Generated; Verilog-2001.\n\n"
            + "\n".join([*modules, wrapper(config)]))


def c_header(config: Config) -> str:
    """The register map as a C header."""
    lines = [f"/* Control registers of Wordline {config.name}: byte offsets, 32 bits each. Generated. */",
             "#ifndef WORDLINE_REGS_H", "#define WORDLINE_REGS_H", ""]
    lines += [f"#define WORDLINE_{register.name:<16} 0x{register.value:02x}u" for register in Csr]
    lines += ["", f"#define WORDLINE_HARDWARE_HASH    0x{config.hardware_hash()}ull"]
    for i, unit in enumerate(driver.UNITS):
        lines.append(f"#define WORDLINE_UNIT_{unit:<11} {i}u /* index of BUSY and ENDED */")
    for i, error in enumerate(driver.ERRORS):
        lines.append(f"#define WORDLINE_ERROR_{error:<19} {i}u /* STATUS bits 7:4 */")
    return "\n".join([*lines, "", "#endif", ""])


_PACKAGE = Template('''# Packages the IP with Vivado: vivado -mode batch -source package_ip.tcl
create_project -in_memory -part $part
add_files hdl/$name.v
set_property top $name [current_fileset]
ipx::package_project -root_dir . -vendor wordline -library ip -taxonomy /Wordline -force
set core [ipx::current_core]
set_property display_name {Wordline $config} $$core
set_property version $version $$core
ipx::infer_bus_interfaces xilinx.com:interface:aximm_rtl:1.0 $$core
ipx::create_xgui_files $$core
ipx::update_checksums $$core
ipx::save_core $$core
''')

_CORE = Template('''CAPI=2:
name: "wordline:ip:$name:$version"
description: "Wordline accelerator, configuration $config"

filesets:
  rtl:
    files: [hdl/$name.v]
    file_type: verilogSource-2001

targets:
  default:
    filesets: [rtl]
    toplevel: $name
  lint:
    default_tool: verilator
    filesets: [rtl]
    toplevel: $name
    tools:
      verilator:
        mode: lint-only
        verilator_options:
          - -Wall
$waivers
''')

_LITEX = Template('''"""Wordline $config in a LiteX SoC: AXI4-Lite and $count AXI4 master(s) of $bits bits. Generated.

    self.submodules.wordline = Wordline(platform)
    self.bus.add_slave("wordline", self.wordline.control, SoCRegion(origin=0x9000_0000, size=0x100, cached=False))
    for i, port in enumerate(self.wordline.ports):          # to the SDRAM controller's crossbar, or to the SoC's bus
        self.bus.add_master(f"wordline{i}", master=port)
    self.irq.add("wordline")                                # with self.wordline.ev
"""

import os

from litex.soc.interconnect import axi
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, If, Instance, Module, ResetSignal, Signal


class Wordline(Module):
    def __init__(self, platform):
        self.control = axi.AXILiteInterface(data_width=32, address_width=8)
        self.ports = [axi.AXIInterface(data_width=$bits, address_width=$address, id_width=1) for _ in range($count)]
        self.submodules.ev = EventManager()
        self.ev.done = EventSourceLevel()
        self.ev.finalize()
        irq = Signal()
        self.comb += self.ev.done.trigger.eq(irq)
        pins = dict(i_ap_clk=ClockSignal(), i_ap_rst_n=~ResetSignal(), o_interrupt=irq)
        pins |= self._connect("s_axi_control", self.control, "i", "o")
        for i, port in enumerate(self.ports):
            pins |= self._connect(f"m_axi_gmem{i}", port, "o", "i")
        self.specials += Instance("$name", **pins)
        platform.add_source(os.path.join(os.path.dirname(__file__), "hdl", "$name.v"))

    @staticmethod
    def _connect(prefix, bus, there, back):
        """Every pin of an interface; `there` is the direction of what the bus's master drives."""
        pins = {}
        for channel, direction in (("aw", there), ("w", there), ("ar", there), ("b", back), ("r", back)):
            endpoint = getattr(bus, channel)
            other = back if direction == there else there
            pins[f"{direction}_{prefix}_{channel}valid"] = endpoint.valid
            pins[f"{other}_{prefix}_{channel}ready"] = endpoint.ready
            names = {"aw": ["addr"], "ar": ["addr"], "w": ["data", "strb"], "b": ["resp"],
                     "r": ["data", "resp"]}[channel]
            if hasattr(endpoint, "last"):
                names += {"aw": ["len", "size", "burst", "id", "cache", "prot"],
                          "ar": ["len", "size", "burst", "id", "cache", "prot"],
                          "w": ["last"], "b": ["id"], "r": ["last", "id"]}[channel] if prefix.startswith("m_") else []
            for name in names:
                if hasattr(endpoint, name):
                    pins[f"{direction}_{prefix}_{channel}{name}"] = getattr(endpoint, name)
        return pins
''')


def find_target(name: str, config: Config) -> Device:
    """The device of that name; raises `ConfigError` if there is none, or no IP for it or of the configuration."""
    device = find_device(name)
    if device.family == "ecp5":
        raise ConfigError(f"--target {name}: IP is for AMD devices; for this board there is wordline fpga build {name}")
    axi_interfaces(config)
    return device


def files(config: Config, sources: dict[str, str], device: Device) -> dict[str, str | bytes]:
    """Path -> contents of the whole bundle; the same configuration gives the same bytes."""
    name, parts = module_name(config), interfaces(config)
    ports = [part for part in parts if part.master]
    values = {"name": name, "config": config.name, "part": device.part, "version": VERSION,
              "count": str(len(ports)), "bits": str(min(PORT_BITS, config.bus.data_bits)),
              "address": str(ADDRESS_BITS),
              "waivers": "\n".join(f"          - -Wno-{flag}  # {reason}" for flag, reason in LINT.items())}
    program, expected = selftest(config)
    bundle: dict[str, str | bytes] = {
        f"hdl/{name}.v": flat_verilog(config, sources, device),
        "component.xml": component_xml(name, VERSION, f"Wordline {config.name}", parts),
        "package_ip.tcl": _PACKAGE.substitute(values),
        f"{name}.core": _CORE.substitute(values),
        f"{name}_litex.py": _LITEX.substitute(values),
        "software/wordline_regs.h": c_header(config),
        "software/wordline_driver.py": Path(driver.__file__).read_text(),
        "software/selftest.wlp": program.to_bytes(),
        "software/selftest.npy": _npy(expected),
    }
    if device.processor:
        bundle["block_design.tcl"] = block_design(config, device, name, [port.name for port in ports])
    bundle["manifest.json"] = json.dumps(
        {"name": config.name, "hardware_hash": config.hardware_hash(), "top": name, "target": device.name,
         "part": device.part, "files": sorted(bundle)} | config.hardware(), indent=2) + "\n"
    return bundle


def write(config: Config, sources: dict[str, str], device: Device, folder: Path) -> list[Path]:
    """Write the bundle into `folder`; returns the files."""
    bundle = files(config, sources, device)
    for name, content in bundle.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [folder / name for name in bundle]


def _npy(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
