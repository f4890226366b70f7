"""Look-up tables and flip-flops as statements do what Yosys' models of them do."""

import itertools
import random
from pathlib import Path

import ecp5_netlist
from runner import run_cocotb

CLOCK, RESET, ENABLE, DATA = 2, 3, 4, (5, 6, 7, 8)


def test_statements_do_what_the_models_do(tmp_path: Path):
    """Random functions of four inputs, and every kind of flip-flop, under random inputs."""
    rng = random.Random(1)
    cells, outputs = {}, []
    for _ in range(64):
        outputs.append(20 + len(outputs))
        cells[f"lut{outputs[-1]}"] = {
            "type": "LUT4", "parameters": {"INIT": f"{rng.getrandbits(16):016b}"},
            "connections": {**{pin: [rng.choice([*DATA, "0", "1"])] for pin in "ABCD"}, "Z": [outputs[-1]]}}
    for clock, reset, enable, start, mode in itertools.product(
            ("CLK", "INV"), ("LSR", "INV"), ("CE", "INV", "0 ", "1 "), ("SET", "RESET"), ("ASYNC", "LSR_OVER_CE")):
        data = rng.choice([*DATA, *outputs])
        outputs.append(20 + len(outputs))
        cells[f"ff{outputs[-1]}"] = {
            "type": "TRELLIS_FF",
            "parameters": {"CLKMUX": clock, "LSRMUX": reset, "CEMUX": enable, "REGSET": start, "SRMODE": mode},
            "connections": {"CLK": [CLOCK], "LSR": [RESET], "CE": [ENABLE], "DI": [data], "Q": [outputs[-1]]}}
    bits = [CLOCK, RESET, ENABLE, *DATA]
    netlist = {"modules": {"top": {"cells": cells, "ports": {
        "i": {"direction": "input", "bits": bits}, "o": {"direction": "output", "bits": outputs}}}}}
    statements, _ = ecp5_netlist.verilog(netlist)
    instances, _ = ecp5_netlist.verilog(netlist, statements=())
    assert all((kind in instances, kind in statements) == (True, False) for kind in ("LUT4", "TRELLIS_FF"))
    width = len(outputs)
    run_cocotb("\n".join([
        statements.replace("module top(", "module one("),
        instances.replace("module top(", "module other("), ecp5_netlist.models(),
        f"module top(input [{len(bits) - 1}:0] i, output [{width - 1}:0] a, output [{width - 1}:0] b);",
        "one one(i, a);", "other other(i, b);", "endmodule"]), "top", "tb_same", tmp_path, short=True)
