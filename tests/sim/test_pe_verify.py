"""`wordline pe verify`: what is right passes, and whatever is wrong with a family is found."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.pe.datatypes import WeightKind, decode_table, decode_tables
from wordline.pe.family import FAMILIES
from wordline.pe.shift_add import ShiftAddColumn
from wordline.sim import pe_proof, pe_verify
from wordline.sim.pe_machine import ColumnFault, ColumnMachine
from wordline.sim.toolchain import ToolFailed


class Small(ShiftAddColumn):
    """Three kinds, for speed."""

    KINDS = frozenset({WeightKind.INT8, WeightKind.INT4, WeightKind.FP4})


KINDS = len(Small.KINDS)


@pytest.fixture
def chosen(monkeypatch):
    """Has the named family verified instead of any other."""
    def choose(cls):
        monkeypatch.setattr(pe_verify, "family", lambda name: cls)

    choose(Small)
    return choose


def faults(**options):
    return [check.fault for report in pe_verify.verify("shift_add", groups=60, **options) for check in report.checks]


def test_a_family_passes_and_the_report_says_how(chosen):
    reports = list(pe_verify.verify("shift_add", groups=60))
    assert len(reports) == KINDS and all(r.passed for r in reports)
    int8 = next(r for r in reports if r.kind == "INT8")
    assert int8.measured == int8.declared == {"interval": 2, "latency": 8, "group": 16}
    assert int8.types == ["int8", "int8_asym"]
    assert [(c.how, c.cases) for c in int8.checks] == [("exhaustive", 1 << 16), ("random", 300), ("random", 300)]


def test_one_wrong_value_is_found(chosen, monkeypatch):
    def wrong(kind, select=0):
        table = decode_table(kind, select).copy()
        table[-1] += kind is WeightKind.FP4 and select == 3
        return table

    monkeypatch.setattr(pe_verify, "decode_table", wrong)
    found = [fault for fault in faults() if fault]
    assert len(found) == 1 and "choice 3: " in found[0]


def test_a_wrong_dot_product_in_the_array_is_found(chosen):
    class Wrong(Small):
        @staticmethod
        def reference(acts, codes, kind, select):
            return ShiftAddColumn.reference(acts, codes, kind, select) + (codes.size > 8)

    chosen(Wrong)
    assert sum(bool(fault) for fault in faults()) == 2 * KINDS  # by itself, and all kinds in turn


def test_a_wrong_latency_is_found(chosen):
    class Late(Small):
        @classmethod
        def timing(cls, kind, lanes, act_bits):
            timing = ShiftAddColumn.timing(kind, lanes, act_bits)
            return replace(timing, latency=timing.latency + (kind is WeightKind.INT4))

    chosen(Late)
    reports = list(pe_verify.verify("shift_add", groups=60))
    assert {r.kind for r in reports if r.declared != r.measured} == {"INT4"}
    assert not any(r.passed for r in reports)  # with all kinds in turn, the column is wrong


def test_lost_dot_products_are_found():
    machine = ColumnMachine(Small(rows=2, lanes=8, act_bits=8, kinds=Small.KINDS, group_max=64))
    ones = np.ones(4, int)
    with pytest.raises(ColumnFault, match="dot products are missing"):
        machine.run(machine.pack(np.zeros((4, 2, 8), int)), np.zeros((4, 8), np.uint8), ones * 2, ones * 0, ones,
                    hold=(0, 1.0, 0))


def test_the_command_fails_where_something_differs(chosen, monkeypatch):
    done = CliRunner().invoke(app, ["pe", "verify", "shift_add", "--groups", "20", "--json"])
    assert done.exit_code == 0
    records = json.loads(done.stdout)
    assert len(records) == KINDS and all(r["passed"] and r["declared"] == r["measured"] for r in records)
    monkeypatch.setattr(Small, "timing", classmethod(
        lambda cls, kind, lanes, act_bits: replace(ShiftAddColumn.timing(kind, lanes, act_bits), interval=3)))
    done = CliRunner().invoke(app, ["pe", "verify", "shift_add", "--groups", "20"])
    assert done.exit_code == 1 and "0 of" in done.stdout
    for arguments, message in ([], "name a family or --all"), (["abacus"], "no PE family 'abacus'"):
        done = CliRunner().invoke(app, ["pe", "verify", *arguments])
        assert done.exit_code == 1 and message in done.stderr


def test_sat_proves_a_column_and_refutes_a_wrong_one(tmp_path, monkeypatch):
    pe_proof.prove("ternary", WeightKind.TERNARY, 1, 4, tmp_path)
    monkeypatch.setattr(pe_proof, "decode_tables", lambda kind: -decode_tables(kind))
    with pytest.raises(ToolFailed, match="proof did fail"):
        pe_proof.prove("ternary", WeightKind.TERNARY, 1, 4, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    for report in pe_verify.verify(name, formal=True):
        assert report.passed, report
