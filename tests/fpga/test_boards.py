"""Every board: the plan of its build by default, the build itself to the bitstream behind `slow`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.fpga.boards import BOARDS, Board, plan
from wordline.fpga.build import make_sdram
from wordline.fpga.pe_selftest import ArrayTest, PeSelfTest
from wordline.rtl.config import load_config

TINY = ArrayTest("mac", 1, 1, 4, 8, ("INT4",), groups=3)


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_the_plan_names_pins_and_tools(board: Board):
    """The serial port has two pins, and what the flow reads and keeps is written or planned."""
    files = plan(board, PeSelfTest(TINY, divisor=board.divisor), {"accelerator.v": "module unused; endmodule\n"}).files
    pins, script, commands = (str(files[name]) for name in (board.flow.pins, "top.ys", "build_top.sh"))
    assert "uart_0__rx__io" in pins and "uart_0__tx__io" in pins
    assert f"synth_{board.chip}" in script and board.flow.netlist in script + commands
    assert all(option in commands for option in board.flow.routing)
    assert abs(board.clock_mhz * 1e6 / board.divisor / board.baud - 1) < 0.01


def test_the_sdrams_pins_are_in_the_plan():
    board = BOARDS["ulx3s-sdram"]
    files = plan(board, make_sdram(board, load_config(board.config)), {}).files
    pins = str(files["top.lpf"])
    for name in ("clk__io", "clk_en__io", "cs__io", "we__io", "ras__io", "cas__io", "ba__io[1]", "a__io[12]",
                 "dqm__io[1]", "dq__io[15]"):
        assert f'"sdram_0__{name}"' in pins, name
    assert "ODDRX1F" in str(files["top.il"])  # the chip's clock


@pytest.mark.parametrize("board", [b for b in BOARDS.values() if b.chip == "ecp5"], ids=lambda board: board.name)
def test_the_ecp5_loop_runs_in_its_range(board: Board):
    platform = board.platform()
    oscillator = platform.lookup(board.clock, 0).clock.frequency / 1e6
    if board.pll:
        assert oscillator * board.pll.feedback / board.pll.reference == board.clock_mhz
        assert 400 <= board.clock_mhz * board.pll.output <= 800
    else:
        assert oscillator == board.clock_mhz
    assert platform.device.removeprefix("LFE5")[:3] in ("U-8", "UM5")


def test_a_board_with_an_array_takes_no_model():
    result = CliRunner().invoke(app, ["fpga", "build", "icebreaker", "--model", "austen"])
    assert result.exit_code == 1 and "leave out --model" in result.output + str(result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOARDS)
def test_an_array_becomes_the_same_bitstream_twice(name: str, tmp_path: Path):
    made = []
    for run in ("first", "second"):
        result = CliRunner().invoke(app, ["fpga", "build", name, "--selftest", "-o", str(tmp_path / run)])
        assert result.exit_code == 0, result.output
        made.append((tmp_path / run / BOARDS[name].flow.products[0]).read_bytes())
    assert made[0] == made[1] and len(made[0]) > 10000
