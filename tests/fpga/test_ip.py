"""IP for other flows: what is in the bundle, lint, host software on the RTL, and AXI against cocotbext-axi."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from runner import run_cocotb

from wordline.compiler.model import load_model
from wordline.compiler.transformer import compile_model
from wordline.fpga import driver, ip
from wordline.fpga.axi_top import PORT_BITS, port_count
from wordline.fpga.devices import find_device
from wordline.fpga.selftest import RESULT, selftest
from wordline.rtl.config import ConfigError, config_from_dict, load_config
from wordline.rtl.isa import Csr, ErrorCode, Unit
from wordline.sim import rtl, toolchain
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator
from wordline.sim.ip_machine import IpMachine

SMALL = config_from_dict({
    "name": "small", "array": {"cols": 8, "lanes": 8, "weights": ["int8", "int4"]}, "vector": {"lanes": 2},
    "memory": {"program": 64, "stream_beats": 64}, "bus": {"data_bits": 256}, "dram": {"size": 1 << 16}})
#: The least that a configuration may have, but for two AXI ports.
TINY = config_from_dict({
    "name": "tiny", "array": {"cols": 8, "lanes": 8, "weights": ["int8"], "group_max": 64, "acc_bits": 32},
    "vector": {"lanes": 2}, "bus": {"data_bits": 256}, "dram": {"size": 1 << 16},
    "memory": {"program": 16, "stream_beats": 64, "vector_floats": 64, "matmul_floats": 64, "load_floats": 64,
               "store_floats": 64, "act_elements": 64, "meta_beats": 16}})
KV260 = find_device("kv260")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ip")
    ip.write(SMALL, rtl.sources(SMALL), KV260, path)
    return path


def lint(path: Path, top: str) -> None:
    verilator = toolchain.verilator()
    waivers = [f"-Wno-{flag}" for flag in ip.LINT]
    verilator.run(["--lint-only", "-Wall", *waivers, "--language", "1364-2001", "--top-module", top, path])


def test_the_bundle_is_whole_and_the_same_every_time(folder: Path):
    again = ip.files(SMALL, rtl.sources(SMALL), KV260)
    for name, content in again.items():
        assert (folder / name).read_bytes() == (content if isinstance(content, bytes) else content.encode()), name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["top"] == "wordline_small" and manifest["part"].startswith("xck26")
    text = (folder / "hdl/wordline_small.v").read_text()
    assert 'X_INTERFACE_INFO = "xilinx.com:interface:aximm:1.0 m_axi_gmem1 ARADDR"' in text
    assert "output [39:0] m_axi_gmem0_araddr" in text and "input [127:0] m_axi_gmem1_rdata" in text
    assert "m_axi_gmem2" not in text  # 256 bits are two ports


def test_verilog_passes_lint(folder: Path):
    lint(folder / "hdl/wordline_small.v", "wordline_small")


def test_a_memory_that_is_read_at_once_is_no_block_ram():
    """As the FIFOs of 128 beats are behind each port of this configuration."""
    text = ip.flat_verilog(TINY, rtl.sources(TINY), KV260)
    modules = [m for m in text.split("endmodule") if re.search(r"^  assign \S+ *= storage\[", m, re.M)]
    assert any("storage [127:0]" in module for module in modules)
    for module in modules:
        assert 'ram_style = "distributed"' in module and 'ram_style = "block"' not in module


def test_component_names_ports_that_there_are(folder: Path):
    root = ET.parse(folder / "component.xml").getroot()
    spirit = {"s": ip.component_xml.__globals__["SPIRIT"]}
    ports = {p.findtext("s:name", "", spirit) for p in root.iterfind("s:model/s:ports/s:port", spirit)}
    text = (folder / "hdl/wordline_small.v").read_text()
    header = text[text.index("module wordline_small (") :]
    for port in ports:
        assert f" {port}" in header
    mapped = {e.text for e in root.iterfind(".//s:physicalPort/s:name", spirit)}
    assert mapped == ports
    names = [e.findtext("s:name", "", spirit) for e in root.iterfind("s:busInterfaces/s:busInterface", spirit)]
    assert names == ["s_axi_control", "m_axi_gmem0", "m_axi_gmem1", "ap_clk", "ap_rst_n", "interrupt"]


def test_python_files_compile_and_the_header_has_every_register(folder: Path):
    for path in folder.rglob("*.py"):
        compile(path.read_text(), str(path), "exec")
    header = (folder / "software/wordline_regs.h").read_text()
    for register in Csr:
        assert f"#define WORDLINE_{register.name:<16} 0x{register.value:02x}u" in header
    compiler = toolchain.cxx()
    compiler.run(["-x", "c++", "-fsyntax-only", "-Wall", folder / "software/wordline_regs.h"])


def test_the_drivers_registers_are_the_hardwares():
    assert {register.name: register.value for register in Csr} == driver.REGISTERS
    assert tuple(unit.name for unit in Unit) == driver.UNITS
    assert tuple(code.name for code in ErrorCode) == driver.ERRORS


@pytest.mark.slow
def test_fusesoc_lints_it(folder: Path, tmp_path: Path):
    fusesoc = Path(sys.executable).with_name("fusesoc")
    if not fusesoc.exists():
        pytest.skip("fusesoc is not installed: pip install 'wordline[flows]'")
    core = tmp_path / "core"
    shutil.copytree(folder, core)
    verilator, make = toolchain.verilator(), toolchain.make()
    assert make
    done = subprocess.run([fusesoc, "--cores-root", core, "run", "--target=lint", "wordline:ip:wordline_small:1.0"],
                          cwd=tmp_path, env=verilator.environment() | {"PYTHONWARNINGS": "ignore"},
                          capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.slow
def test_litex_instantiates_it(folder: Path):
    """LiteX makes Verilog of the module; every pin of the IP is connected, but those that LiteX has no signal for."""
    pytest.importorskip("litex", reason="litex is not installed: pip install 'wordline[flows]'")
    script = f"""
import sys
sys.path.insert(0, {str(folder)!r})
from migen.fhdl import verilog
from wordline_small_litex import Wordline
class Platform:
    def add_source(self, path):
        open(path).close()
print(verilog.convert(Wordline(Platform())))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    instance = done.stdout[done.stdout.index("wordline_small wordline_small(") :]
    connected = set(re.findall(r"^\s*\.(\w+)\((?!\))", instance, re.M))
    header = (folder / "hdl/wordline_small.v").read_text().partition("module wordline_small (")[2].partition(");\n")[0]
    pins = set(re.findall(r"(?:input|output) (?:\[\d+:0\] )?(\w+)", header))
    assert connected == pins


def test_a_target_that_takes_no_ip_is_refused():
    with pytest.raises(ConfigError, match="there is wordline fpga build ulx3s"):
        ip.find_target("ulx3s", SMALL)


def test_a_block_design_for_devices_with_a_processing_system():
    bundles = {name: ip.files(SMALL, rtl.sources(SMALL), find_device(name)) for name in ("kv260", "pynq-z2", "arty-a7")}
    assert "block_design.tcl" not in bundles["arty-a7"]
    for name, processor, clock, slaves in [("kv260", "zynq_ultra_ps_e", "ps/pl_clk0", "S_AXI_HP{}_FPD"),
                                           ("pynq-z2", "processing_system7", "ps/FCLK_CLK0", "S_AXI_HP{}")]:
        text = str(bundles[name]["block_design.tcl"])
        assert f"xilinx.com:ip:{processor} ps" in text and f"[get_bd_pins {clock}]" in text
        assert find_device(name).part in text and f" {SMALL.clock_mhz:g}]" in text
        for i in range(port_count(SMALL)):
            assert re.search(rf"Master /accelerator/m_axi_gmem{i} \\\n  Slave /ps/{slaves.format(i)} ", text)
        for pair in ("{}", "[]"):
            assert text.count(pair[0]) == text.count(pair[1])


def test_several_ports_are_refused():
    with pytest.raises(ConfigError, match="bus.ports = 32"):
        ip.find_target("u280", load_config("u280"))


def test_the_driver_runs_the_self_test_on_the_rtl(folder: Path):
    machine = rtl.RtlMachine(SMALL)
    host = driver.Driver(rtl.Mmio(machine), machine.memory)
    expected = np.load(folder / "software/selftest.npy")
    result = host.selftest(str(folder / "software/selftest.wlp"), expected)
    assert result.cycles > 100 and result.ended["MATMUL"] == 1
    wrong = expected.copy()
    wrong[3] += 1
    with pytest.raises(driver.DriverError, match="1 of 16 results are wrong"):
        host.selftest(str(folder / "software/selftest.wlp"), wrong)
    other = driver.ProgramFile.read(str(folder / "software/selftest.wlp"))
    other.hardware = "0" * 16
    with pytest.raises(driver.DriverError, match="compile it again"):
        host.load(other)


def test_the_driver_generates_what_the_functional_simulator_does(tmp_path: Path):
    config, model = load_config("ulx3s"), load_model("austen")
    program = compile_model(model, config, context=32)
    ids = model.tokenizer.encode("It was").ids
    want = Generator(model, program, ids, 4).functional(FunctionalMachine(config), lambda tokens: None).tokens
    path = tmp_path / "austen.wlp"
    compile_model(model, config, context=32).save(path)
    machine = rtl.RtlMachine(config)
    host = driver.Driver(rtl.Mmio(machine), machine.memory)
    host.load(str(path))
    assert host.generate(ids, 4, timeout=600) == [int(t) for t in want[len(ids) :]]


#: kv260 with its four ports and its family, but a small array and small memories.
SHRUNK = ["array.cols=8", "array.lanes=8", "array.drain_lanes=2", "array.group_max=512", "vector.lanes=4",
          "memory.vector_floats=2048", "memory.matmul_floats=1024", "memory.load_floats=1024",
          "memory.store_floats=512", "memory.act_elements=512", "memory.stream_beats=64",
          "memory.program=1024", "memory.meta_beats=16"]
BASE = 0x4_2000_0000


@pytest.mark.parametrize("overrides", [
    pytest.param(SHRUNK, id="shrunk"),
    pytest.param([], id="whole", marks=[pytest.mark.slow, pytest.mark.timeout(5400)]),
])
def test_kv260s_ip_generates_text_through_axi_alone(overrides: list[str], tmp_path: Path):
    """Driver and IP as on the board: registers, a buffer at a physical address, ports that hesitate each on its own.

    Then a reset in the middle of a run, and a program that is stopped by its memory's edge. With `-s` it prints how
    long building took and how fast it runs.
    """
    config, model = load_config("kv260", [*overrides, "dram.size=2097152"]), load_model("austen")
    text = ip.flat_verilog(config, rtl.sources(config), KV260)
    start = time.monotonic()
    board = IpMachine(text, ip.module_name(config), ports=port_count(config), size=config.dram.size, base=BASE,
                      port_bits=min(PORT_BITS, config.bus.data_bits))
    built = time.monotonic() - start
    host = driver.Driver(board, board.buffer, base=BASE)
    assert host.hardware == config.hardware_hash()

    program, expected = selftest(config)
    program.save(tmp_path / "selftest.wlp")
    host.selftest(str(tmp_path / "selftest.wlp"), expected)

    program = compile_model(model, config, context=32)
    program.save(tmp_path / "austen.wlp")
    ids = model.tokenizer.encode("It was").ids
    want = Generator(model, program, ids, 4).functional(FunctionalMachine(config), lambda tokens: None).tokens
    want = [int(t) for t in want[len(ids) :]]
    host.load(str(tmp_path / "austen.wlp"))
    start = time.monotonic()
    assert host.generate(ids, 4, timeout=600) == want
    cycles, seconds = host.read("CYCLES_LOW"), time.monotonic() - start
    print(f"\nbuilt in {built:.0f} s (cache included); {len(ids)} + {len(want)} tokens, {cycles} cycles, "
          f"{cycles / seconds:.0f} cycles/s")
    board.stalls(0.3)
    assert host.generate(ids, 2, timeout=600) == want[:2]

    board.write(driver.REGISTERS["CONTROL"], 1)
    board.read(driver.REGISTERS["STATUS"])
    board.reset()
    host = driver.Driver(board, board.buffer, base=BASE)  # the registers are as new
    host.load(str(tmp_path / "austen.wlp"))
    assert host.generate(ids, 1, timeout=600) == want[:1]
    host.write("MEMORY_LOW", BASE + config.dram.size)  # nothing answers there but errors
    with pytest.raises(driver.DriverError, match="BUS_READ"):
        host.generate(ids, 1)
    assert board.sound


def test_axi_against_cocotbext(tmp_path: Path):
    """Back-pressure, error responses, silence, resets at any time; no 4 KB crossing, VALID stable, WLAST right."""
    program, expected = selftest(TINY)
    start = program.symbols["program"].address
    image = {start: program.instructions.reshape(-1)} | program.segments
    result = program.symbols[RESULT]
    (tmp_path / "program.json").write_text(json.dumps({
        "image": {address: bytes(part).hex() for address, part in image.items()}, "program": start,
        "length": len(program.instructions), "result": result.address, "size": result.size,
        "memory": program.memory_size}))
    np.save(tmp_path / "expected.npy", expected)
    run_cocotb(ip.flat_verilog(TINY, rtl.sources(TINY), KV260), "wordline_tiny", "tb_axi_ip", tmp_path, env={
        "IP_FOLDER": str(tmp_path), "IP_PORTS": "2", "IP_HARDWARE": TINY.hardware_hash(),
        "IP_REGISTERS": json.dumps(driver.REGISTERS), "COCOTB_LOG_LEVEL": "WARNING"}, short=True)
