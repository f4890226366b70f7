"""The Verilog of every shipped configuration passes Verilator's lint; Icarus and Yosys read it.

`fpga.ip.LINT` has the reason for every warning that lint is not to give.
"""

import os
from importlib import resources
from pathlib import Path

import pytest

from wordline.fpga import ip
from wordline.fpga.devices import find_device
from wordline.fpga.netlist import Netlist, style_memories
from wordline.rtl.config import load_config
from wordline.sim import rtl, toolchain

NAMES = sorted(Path(path.name).stem for path in resources.files("wordline.configs").iterdir()
               if path.name.endswith(".toml"))
SMALL = {"ulx3s_uart"}
#: A column and what is around its 128 columns go through Verilator one after the other: all at once they took more
#: than 5 GB and were stopped.
APART = {"u280"}


def lint(folder: Path, files: list[str], top: str) -> None:
    waivers = [f"-Wno-{flag}" for flag in ip.LINT]
    arguments = ["--lint-only", "-Wall", *waivers, "--language", "1364-2001", "--top-module", top]
    toolchain.verilator().run([*arguments, *files], cwd=folder)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in SMALL else [pytest.mark.slow, pytest.mark.timeout(3600)]) for name in NAMES])
def test_every_configuration(name: str, tmp_path: Path):
    config = load_config(name)
    sources = rtl.sources(config)
    for file, text in sources.items():
        (tmp_path / file).write_text(text)
    files = sorted(sources)
    if name in APART:
        stub = Netlist(sources.values(), "accelerator").modules["column"].stub
        (tmp_path / "stub.vh").write_text(f"/* verilator lint_off UNDRIVEN */\n{stub}")
        lint(tmp_path, ["column.v"], "column")
        lint(tmp_path, ["accelerator.v", "stub.vh"], "accelerator")  # the stub last: it says lint_off
    else:
        lint(tmp_path, files, "accelerator")
    if name.startswith("kv260"):
        (tmp_path / "ip.v").write_text(ip.flat_verilog(config, sources, find_device("kv260")))
        lint(tmp_path, ["ip.v"], ip.module_name(config))
    if name not in SMALL:  # Yosys' first call takes most of a minute
        for file, text in sources.items():  # and a minute more for the zeros of every large memory
            (tmp_path / file).write_text(style_memories(text, {}))
        toolchain.yosys().run(["-q", "-p", f"read_verilog {' '.join(files)}; hierarchy -check -top accelerator"],
                              cwd=tmp_path)
        for file, text in sources.items():
            (tmp_path / file).write_text(text)
    try:
        icarus = toolchain.icarus()
    except toolchain.MissingTool as missing:
        pytest.skip(f"Verilator and Yosys were content; {missing}")
    icarus.run(["-g2001", "-t", "null", "-s", "accelerator", "-o", os.devnull, *files], cwd=tmp_path)
