"""Verilog of an accelerator: two files, flat AXI port names, the same bytes every time."""

import json
from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Signal

from wordline.rtl.config import Config
from wordline.rtl.core import Accelerator
from wordline.rtl.matmul_unit import column_verilog


def _flat_ports(core: Accelerator) -> dict[str, tuple[Signal, None]]:
    ports = {}
    for prefix, interface in (("m_axi", core.axi), ("s_axi_control", core.control)):
        for name in interface.signature.members:
            ports[f"{prefix}_{name}"] = getattr(interface, name)
    for name in ("irq", "trace_start", "trace_done", "trace_pc"):
        ports[name] = getattr(core, name)
    return ports


def emit(config: Config) -> dict[str, str]:
    """File name -> Verilog: ``accelerator.v`` with the top module ``accelerator``, and ``column.v``.

    Ports are ``clk``, ``rst``, ``m_axi_*`` (AXI4 master), ``s_axi_control_*`` (AXI4-Lite slave), ``irq`` and
    ``trace_*``.
    """
    core = Accelerator(config)
    ports = _flat_ports(core)
    for name, signal in ports.items():
        signal.name = name
    text = verilog.convert(core, name="accelerator", ports=list(ports.values()), emit_src=False)
    return {"accelerator.v": text, "column.v": column_verilog(config)}


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
