"""Verilog of an accelerator: two files, flat AXI port names, the same bytes every time."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amaranth.back import rtlil, verilog
from amaranth.hdl import Elaboratable, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from wordline.rtl.column import Column
from wordline.rtl.config import Config
from wordline.rtl.core import Accelerator

#: Characters; longer lines are broken.
LONGEST_LINE = 1 << 15
#: A memory without initial words.
_BARE = re.compile(r"^  reg \[(\d+):0\] (\w+) \[(\d+):0\];\n(?!  initial)", re.M)


@contextmanager
def _without_zeros() -> Iterator[None]:
    """Amaranth emits no initial words of memories that are all zero: it makes an object of every bit, gigabytes of them
    for the weight FIFO of configs/u280.toml."""
    original = rtlil.ModuleEmitter.emit_memory

    def emit_memory(self, cell_idx, cell):
        if any(cell.init):
            original(self, cell_idx, cell)

    rtlil.ModuleEmitter.emit_memory = emit_memory
    try:
        yield
    finally:
        rtlil.ModuleEmitter.emit_memory = original


def convert(design: Elaboratable, name: str) -> str:
    """Verilog of `design` with the top module `name`; memories that are all zero at first are filled in a loop."""
    with _without_zeros():
        text = verilog.convert(design, name=name, emit_src=False)

    def loop(match: re.Match) -> str:
        width, name, depth = int(match[1]) + 1, match[2], int(match[3]) + 1
        word = f"{name}_word"
        return (f"{match[0]}  integer {word};\n"
                f"  initial for ({word} = 0; {word} < {depth}; {word} = {word} + 1) {name}[{word}] = {width}'h0;\n")

    return _BARE.sub(loop, text)


def axi_prefixes(config: Config) -> list[str]:
    """What the names of each AXI4 master's signals begin with."""
    n = config.bus.ports
    return ["m_axi_"] if n == 1 else [f"m_axi{i}_" for i in range(n)]


class FlatAccelerator(wiring.Component):
    """An `Accelerator` with one port a signal: ``m_axi_awaddr`` where Amaranth would say ``axi__awaddr``."""

    def __init__(self, config: Config):
        self.core = Accelerator(config)
        self._ports = {}
        masters = zip(axi_prefixes(config), self.core.masters, strict=True)
        for prefix, part in (*masters, ("s_axi_control_", self.core.control), ("", self.core)):
            for name, member in part.signature.members.items():
                if member.is_port and not member.dimensions:
                    self._ports[prefix + name] = (getattr(part, name), member)
        super().__init__({name: member for name, (_, member) in self._ports.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = self.core
        for name, (inner, member) in self._ports.items():
            outer = getattr(self, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)
        return m


def emit(config: Config) -> dict[str, str]:
    """File name -> Verilog: ``accelerator.v`` with the top module ``accelerator``, and ``column.v``.

    Ports are ``clk``, ``rst``, ``m_axi_*`` (AXI4 master; of several, ``m_axi0_*`` and so on), ``s_axi_control_*``
    (AXI4-Lite slave), ``irq`` and ``trace_*``.
    """
    text = convert(FlatAccelerator(config), "accelerator")
    # A concatenation is one line, which for wide arrays has more tokens than Verilator takes (40000).
    text = "\n".join(line if len(line) <= LONGEST_LINE else line.replace(", ", ",\n") for line in text.split("\n"))
    return {"accelerator.v": text, "column.v": convert(Column(config), "column")}


def write(config: Config, folder: Path) -> list[Path]:
    """Write the Verilog and a manifest into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = emit(config)
    files["manifest.json"] = json.dumps(
        {"name": config.name, "hardware_hash": config.hardware_hash(), "top": "accelerator",
         "sources": sorted(files)} | config.hardware(), indent=2) + "\n"
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]
