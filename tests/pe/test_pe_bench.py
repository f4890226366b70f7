# amaranth: UnusedElaboratable=no
"""Every family through the common bench (tests/cosim/tb_pe_column.py)."""

import json

import pytest
from amaranth.back import verilog
from runner import run_cocotb

from wordline.pe.datatypes import WeightKind
from wordline.pe.family import FAMILIES, CompleteColumn, family

SHAPES = {
    "1x4a8": {"rows": 1, "lanes": 4, "act_bits": 8, "group_max": 64},
    "2x8a16": {"rows": 2, "lanes": 8, "act_bits": 16, "group_max": 64},
    # An adder tree that is not full, and few decoders.
    "3x5a4": {"rows": 3, "lanes": 5, "act_bits": 4, "group_max": 35},
}
FEW = {WeightKind.INT4, WeightKind.FP3}


#: One shape for each family; the others are for long runs.
QUICK = {"mac": "1x4a8", "mac_packed": "3x5a4", "bit_serial": "2x8a16", "shift_add": "3x5a4", "lut": "1x4a8",
         "ternary": "2x8a16", "bit_plane": "3x5a4"}


@pytest.mark.parametrize(("name", "shape"), [
    pytest.param(name, shape, marks=[] if QUICK[name] == shape else pytest.mark.slow)
    for name in FAMILIES for shape in SHAPES])
def test_family(name, shape, tmp_path):
    cls = family(name)
    kinds = cls.KINDS & FEW if shape == "3x5a4" else cls.KINDS
    text = verilog.convert(CompleteColumn(cls(**SHAPES[shape], kinds=kinds)), name="column", emit_src=False)
    parameters = SHAPES[shape] | {"family": name, "kinds": [kind.name for kind in sorted(kinds)]}
    run_cocotb(text, "column", "tb_pe_column", tmp_path, env={"PE_BENCH": json.dumps(parameters)})


def test_cycles_per_step_are_those_of_the_paper():
    # BitMoD, Section IV-B: four weights take 4 cycles at INT8, 3 at INT6, 2 at FP4 and FP3. Radix-4 Booth
    # takes a digit for two bits of the others, planes one each.
    cycles = {"INT8": 4, "INT7": 4, "INT6": 3, "INT5": 3, "INT4": 2, "INT3": 2, "INT2": 1, "INT1": 1,
              "FP4": 2, "FP3": 2, "POW2X2": 2, "POW2X3": 3, "TERNARY": 1}
    for kind in WeightKind:
        assert family("bit_serial").timing(kind, 4, 8).interval == cycles[kind.name]
        assert family("mac").timing(kind, 4, 8).interval == 1


@pytest.mark.parametrize("change, message", [
    ({"lanes": 0}, "lanes must be at least 1, not 1 and 0"),
    ({"act_bits": 12}, "act_bits must be 4, 8 or 16, not 12"),
    ({"kinds": frozenset()}, "at least one WeightKind"),
    ({"group_max": 2}, "at least one step of 4 lanes, not 2"),
])
def test_impossible_columns_are_refused(change, message):
    possible = {"rows": 1, "lanes": 4, "act_bits": 8, "kinds": frozenset(WeightKind), "group_max": 64}
    with pytest.raises(ValueError, match=message):
        family("mac")(**possible | change)
