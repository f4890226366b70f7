"""What of `fpga.synth` needs no tool: the counting and the wrapper."""

import json
from pathlib import Path

from wordline.fpga import synth
from wordline.rtl.config import load_config


def stat(**cells: int) -> str:
    return json.dumps({"design": {"num_cells_by_type": cells}})


def test_lut_ram_and_carries_count_as_the_luts_they_take():
    ecp5 = synth.count(stat(LUT4=10, CCU2C=3, TRELLIS_DPR16X4=2, PFUMX=4, TRELLIS_FF=7, MULT18X18D=1, DP16KD=5), "ecp5")
    assert ecp5 == {"LUT4": 10 + 6 + 12, "FF": 7, "DSP": 1, "EBR": 5}
    xilinx = synth.count(stat(LUT6=10, RAM32M16=2, RAM64M8=1, FDRE=7, DSP48E2=2, RAMB36E2=3, RAMB18E2=1), "xilinx")
    assert xilinx == {"LUT": 10 + 24, "FF": 7, "DSP": 2, "BRAM36": 3.5, "URAM": 0}


def test_the_wrapper_feeds_every_input_and_folds_every_output():
    text = synth.wrapper("module accelerator(clk, rst, a, b, c, d);\n  input clk;\n  input rst;\n  input [7:0] a;\n"
                         "  input b;\n  output [3:0] c;\n  output d;\nendmodule\n")
    assert "reg [8:0] feed" in text and "wire [4:0] result" in text
    assert ".clk(clk), .rst(rst), .a(feed[7:0]), .b(feed[8:8]), .c(result[3:0]), .d(result[4:4])" in text


def test_place_and_route_hands_the_seed_on_and_reads_the_clock(tmp_path: Path):
    calls = []

    def yosys(args: list[str], folder: Path) -> str:
        calls.append(args)
        (folder / "stat.json").write_text(stat(LUT4=10))
        return ""

    def nextpnr(args: list[str], folder: Path) -> str:
        calls.append(args)
        (folder / "report.json").write_text(json.dumps({
            "fmax": {"clk": {"achieved": 53.3, "constraint": 50.0}}, "critical_paths": []}))
        return ""

    result = synth.place_and_route(load_config("ulx3s"), yosys, nextpnr, tmp_path, seed=7)
    assert result.fmax_mhz == 53.3 and result.counts["LUT4"] == 10
    assert calls[2][calls[2].index("--seed") + 1] == "7"
    assert calls[2][calls[2].index("--router") + 1] == "router2"
    # What is routed is mapped as what is counted.
    assert all("-no-rw-check" in args[-1] for args in calls[:2])
