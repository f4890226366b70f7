"""Every family through the common bench (tests/cosim/tb_pe_column.py)."""

import json

import pytest
from amaranth.back import verilog
from runner import run_cocotb

from wordline.pe.datatypes import WeightKind
from wordline.pe.family import FAMILIES, family

SHAPES = [{"rows": 1, "lanes": 4, "act_bits": 8}, {"rows": 2, "lanes": 8, "act_bits": 16}]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['rows']}x{s['lanes']}a{s['act_bits']}")
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, shape, tmp_path):
    kinds = list(WeightKind)
    column = family(name)(**shape, kinds=frozenset(kinds), group_max=64)
    parameters = shape | {"family": name, "kinds": [k.name for k in kinds], "group_max": 64}
    text = verilog.convert(column, name="column", emit_src=False)
    run_cocotb(text, "column", "tb_pe_column", tmp_path, env={"PE_BENCH": json.dumps(parameters)})
