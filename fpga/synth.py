"""What a configuration costs on an FPGA: Yosys for ECP5 and Xilinx, nextpnr for the ECP5's longest path.

The accelerator alone has more ports than a package has pins, so for place and route it is wrapped: inputs come out of a
shift register that one pin feeds, outputs are registered and folded into one pin. That adds flip-flops,
which the resource counts (taken without the wrapper) do not contain.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wordline.rtl import verilog
from wordline.rtl.config import Config

#: What an ECP5 LFE5U-85F has (Lattice FPGA-DS-02012, table 1.1).
ECP5_85F = {"LUT4": 83640, "FF": 83640, "DSP": 156, "EBR": 208}

_CELLS = {
    "ecp5": {"LUT4": {"LUT4": 1, "PFUMX": 0, "L6MUX21": 0, "CCU2C": 2, "TRELLIS_DPR16X4": 6}, "FF": {"TRELLIS_FF": 1},
             "DSP": {"MULT18X18D": 1}, "EBR": {"DP16KD": 1, "PDPW16KD": 1}},
    "xilinx": {"LUT": {f"LUT{i}": 1 for i in range(1, 7)} | {"RAM32M": 4, "RAM32X1D": 2, "RAM64M": 4,
                                                            "RAM64X1D": 2, "RAM32M16": 8, "RAM64M8": 8,
                                                            "SRL16E": 1, "SRLC32E": 1},
               "FF": {name: 1 for name in ("FDRE", "FDSE", "FDCE", "FDPE")},
               "DSP": {"DSP48E1": 1, "DSP48E2": 1},
               "BRAM36": {"RAMB36E1": 1, "RAMB36E2": 1, "RAMB18E1": 0.5, "RAMB18E2": 0.5},
               "URAM": {"URAM288": 1}},
}
# A write to the address that is read in the same cycle: either nobody uses what was read (FIFOs, banks between
# semaphores), or the instruction set forbids it (a destination may not overlap a source but exactly). Block RAM
# of the ECP5 leaves it open, and to settle it Yosys would put a register and a multiplexer around every bank.
_COMMANDS = {"ecp5": "synth_ecp5 -no-rw-check -top {top} -json {json}",
             "xilinx": "synth_xilinx -family xcup -top {top} -flatten"}

Run = Callable[[list[str], Path], str]


@dataclass(frozen=True)
class Resources:
    """Cell counts of one target, and for ECP5, if asked for, what nextpnr's router reached."""

    target: str
    counts: dict[str, float]
    fmax_mhz: float | None = None
    critical_path: list[str] = field(default_factory=list)


def count(stat: str, target: str) -> dict[str, float]:
    """Resources out of what Yosys' ``stat -json`` wrote."""
    cells = json.loads(stat)["design"]["num_cells_by_type"]
    return {name: sum(cells.get(cell, 0) * weight for cell, weight in kinds.items())
            for name, kinds in _CELLS[target].items()}


def command(target: str, top: str) -> str:
    """Yosys' command that maps to a target and writes ``TOP.json`` for nextpnr."""
    return _COMMANDS[target].format(top=top, json=f"{top}.json")


def plain_command(target: str, top: str, xilinx: str = "-family xcup") -> str:
    """As `command`, for counting alone, with `abc` in place of `abc9`, which in YoWASP's 0.70 fails without a word on
    some designs. There is no option for that: Yosys' script runs up to its LUTs, and from there its own steps follow,
    with its sizes and costs."""
    if target == "ecp5":
        script = f"synth_ecp5 -no-rw-check -top {top} -run"
        return f"{script} begin:map_luts; abc -lut 4:7; clean; {script} map_cells:check"
    return (f"synth_xilinx {xilinx} -flatten -top {top} -run begin:map_luts; "
            "opt_expr -mux_undef -noclkinv; abc -luts 2:2,3,6:5,10,20; clean; xilinx_srl -fixed -minlen 3; "
            "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6; xilinx_dffopt; "
            "opt_lut_ins -tech xilinx; clean")


def map_files(files: dict[str, str], top: str, target: str, yosys: Run, folder: Path,
              command: Callable[[str, str], str] = command) -> dict[str, float]:
    """Resources of Verilog files (``.v``) or RTLIL (``.il``) by name; `yosys` runs the tool in a folder."""
    for name, text in files.items():
        (folder / name).write_text(text)
    read = "; ".join(f"read_{'rtlil' if name.endswith('.il') else 'verilog'} {name}" for name in files)
    yosys(["-q", "-p", f"{read}; {command(target, top)}; flatten; tee -q -o stat.json stat -json"], folder)
    return count((folder / "stat.json").read_text(), target)


def synthesise(config: Config, target: str, yosys: Run, folder: Path) -> Resources:
    """Map the accelerator to a target's cells."""
    return Resources(target, map_files(verilog.emit(config), "accelerator", target, yosys, folder))


def wrapper(accelerator: str) -> str:
    """A top with three pins around the accelerator's Verilog."""
    header = re.search(r"module accelerator\((.*?)\);(.*?)endmodule", accelerator, re.S)
    assert header is not None
    ports = re.findall(r"^\s*(input|output)\s+(?:\[(\d+):0\]\s+)?(\w+)\s*;", header[2], re.M)
    inputs = [(name, int(top or 0) + 1) for way, top, name in ports if way == "input" and name not in ("clk", "rst")]
    outputs = [(name, int(top or 0) + 1) for way, top, name in ports if way == "output"]
    n_in, n_out = sum(w for _, w in inputs), sum(w for _, w in outputs)
    connections, at = [".clk(clk)", ".rst(rst)"], 0
    for name, width in inputs:
        connections.append(f".{name}(feed[{at + width - 1}:{at}])")
        at += width
    at = 0
    for name, width in outputs:
        connections.append(f".{name}(result[{at + width - 1}:{at}])")
        at += width
    return f"""module wrapper(input clk, input rst, input pin, output reg fold);
  reg [{n_in - 1}:0] feed;
  wire [{n_out - 1}:0] result;
  reg [{n_out - 1}:0] held;
  always @(posedge clk) begin
    feed <= {{feed[{n_in - 2}:0], pin}};
    held <= result;
    fold <= ^held;
  end
  accelerator core({', '.join(connections)});
endmodule
"""


def place_and_route(config: Config, yosys: Run, nextpnr: Run, folder: Path, *, seed: int = 1) -> Resources:
    """ECP5-85F: resources, and the clock that nextpnr's timing analysis allows after routing."""
    resources = synthesise(config, "ecp5", yosys, folder)
    (folder / "wrapper.v").write_text(wrapper((folder / "accelerator.v").read_text()))
    yosys(["-q", "-p", "read_verilog accelerator.v column.v wrapper.v; "
           + command("ecp5", "wrapper")], folder)
    nextpnr(["--85k", "--package", "CABGA381", "--speed", "6", "--json", "wrapper.json",
             "--lpf-allow-unconstrained", "--freq", str(config.clock_mhz), "--seed", str(seed),
             # The default router rips up without end where the float units crowd; this one negotiates.
             "--router", "router2", "--timing-allow-fail", "--report", "report.json"], folder)
    report = json.loads((folder / "report.json").read_text())
    clock = max(report["fmax"].values(), key=lambda c: c["constraint"])
    path = [str(step.get("to", {}).get("cell", "")) for p in report["critical_paths"][:1] for step in p["path"]]
    return Resources("ecp5", resources.counts, clock["achieved"], path)
