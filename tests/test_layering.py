"""The arrows between the folders, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# A compiled program must not depend on how the hardware is built inside, so of rtl the compiler
# sees only what describes it.
RTL_DESCRIPTION = {"rtl.config", "rtl.isa", "rtl.layout", "rtl.program"}
ALLOWED = {
    "pe": set(),
    "rtl": {"pe"},
    "compiler": {"pe"} | RTL_DESCRIPTION,
    "sim": {"pe", "rtl", "compiler"},
    "fpga": {"pe", "rtl", "compiler"},
    "cli": {"pe", "rtl", "compiler", "sim", "fpga"},
}
FILES = sorted(p for area in ALLOWED for p in (ROOT / area).glob("*.py"))


def imported(source: str, area: str) -> set[str]:
    """Dotted names of every module, or member of one, that a file of ``area`` imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = {0: "", 1: f"wordline.{area}", 2: "wordline"}[node.level]
            module = ".".join(filter(None, [base, node.module]))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def violations(source: str, area: str) -> list[str]:
    found = []
    for name in sorted(imported(source, area)):
        parts = name.split(".")
        if parts[0] in ALLOWED:
            found.append(f"import {name}: write wordline.{name}")
        elif parts[0] == "wordline" and parts[1:2] != [area]:
            prefixes = {".".join(parts[1:end]) for end in (2, 3)}
            if not prefixes & ALLOWED[area]:
                found.append(f"{area} may not import {name}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    assert violations(path.read_text(), path.parent.name) == []


@pytest.mark.parametrize(
    ("area", "line"),
    [
        ("pe", "from wordline.rtl.config import Config"),
        ("pe", "from wordline import rtl"),
        ("pe", "from ..rtl import config"),
        ("rtl", "import wordline.compiler.tile"),
        ("compiler", "from wordline.rtl.core import Core"),
        ("compiler", "from wordline.rtl import core"),
        ("compiler", "from wordline.sim import cycles"),
        ("fpga", "from wordline.sim import toolchain"),
        ("sim", "import pe"),
        ("sim", "from rtl.config import Config"),
    ],
)
def test_a_wrong_arrow_is_found(area, line):
    assert len(violations(line, area)) == 1


@pytest.mark.parametrize(
    ("area", "line"),
    [
        ("compiler", "from wordline.rtl.isa import Operation"),
        ("compiler", "from wordline.rtl import config, isa"),
        ("sim", "from amaranth.sim import Simulator"),
        ("rtl", "from .ports import ReadPort"),
    ],
)
def test_a_right_arrow_passes(area, line):
    assert violations(line, area) == []
