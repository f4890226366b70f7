"""The emitted Verilog: names of the ports, the same bytes every time, a manifest that says what it is."""

import json
import re
import subprocess
import sys

from wordline.rtl import verilog
from wordline.rtl.config import ArrayConfig, BusConfig, Config, MemoryConfig, VectorConfig

CONFIG = Config(name="small", vector=VectorConfig(lanes=2), array=ArrayConfig(weights=("int4",)),
                memory=MemoryConfig(program=64, stream_beats=128), bus=BusConfig(data_bits=32, address_bits=24))


def test_ports_have_axi_names_and_directions():
    text = verilog.emit(CONFIG)["accelerator.v"]
    top = re.search(r"^module accelerator\(.*?^endmodule", text, re.M | re.S)[0]
    ports = {name: (direction, int(high or 0) + 1)
             for direction, high, name in re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", top, re.M)}
    for name, direction, width in [
        ("clk", "input", 1), ("rst", "input", 1), ("irq", "output", 1),
        ("m_axi_araddr", "output", 24), ("m_axi_arlen", "output", 8), ("m_axi_arready", "input", 1),
        ("m_axi_rdata", "input", 32), ("m_axi_bid", "input", 1), ("m_axi_wstrb", "output", 4),
        ("s_axi_control_awaddr", "input", 8), ("s_axi_control_wdata", "input", 32),
        ("s_axi_control_bresp", "output", 2), ("s_axi_control_rdata", "output", 32),
        ("trace_start", "output", 6), ("trace_done", "output", 6), ("trace_pc", "output", 16),
    ]:
        assert ports[name] == (direction, width), name
    assert len(ports) == 9 + 29 + 17  # clk, rst, irq, fault, watchdog, memory_base, trace; AXI4; AXI4-Lite
    assert not any("__" in name for name in ports)


def test_files_are_the_same_in_another_process(tmp_path):
    ours = verilog.write(CONFIG, tmp_path / "ours")
    script = ("from test_verilog import CONFIG; from wordline.rtl import verilog; from pathlib import Path; "
              f"verilog.write(CONFIG, Path({str(tmp_path / 'theirs')!r}))")
    subprocess.run([sys.executable, "-c", script], cwd=__file__.rpartition("/")[0], check=True)
    assert sorted(path.name for path in ours) == ["accelerator.v", "column.v", "manifest.json"]
    for path in ours:
        assert path.read_bytes() == (tmp_path / "theirs" / path.name).read_bytes()
        assert "/work" not in path.read_text() and str(tmp_path) not in path.read_text()
    manifest = json.loads((tmp_path / "ours" / "manifest.json").read_text())
    assert manifest["hardware_hash"] == CONFIG.hardware_hash()
    assert manifest["sources"] == ["accelerator.v", "column.v"]


def test_memories_are_cleared_in_a_loop_and_tables_keep_their_words():
    text = verilog.emit(CONFIG)["accelerator.v"]
    declared = {name: (int(high) + 1, int(last) + 1) for high, name, last in
                re.findall(r"^ +reg \[(\d+):0\] (\S+) +\[(\d+):0\];", text, re.M)}
    cleared = {name: (int(width), int(depth)) for depth, name, width in
               re.findall(r"^  initial for \(\w+ = 0; \w+ < (\d+); .*\) (\w+)\[\w+\] = (\d+)'h0;$", text, re.M)}
    tables = set(re.findall(r"^    (\S+) ?\[0\] = ", text, re.M))
    assert cleared and tables and set(declared) == set(cleared) | tables
    assert all(declared[name] == size for name, size in cleared.items() if name not in tables)
