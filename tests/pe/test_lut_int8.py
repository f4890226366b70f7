# amaranth: UnusedElaboratable=no
"""Tables rounded to INT8: the column equals its reference, which without rounding is the exact dot product."""

import numpy as np
import pytest

from wordline.pe import lut_int8
from wordline.pe.datatypes import KIND_BITS, WeightKind, selects
from wordline.pe.family import PeColumn
from wordline.pe.lut_int8 import LutInt8Column, quantise
from wordline.sim import pe_verify
from wordline.sim.pe_machine import ColumnMachine

KINDS = frozenset(LutInt8Column.KINDS)


def test_the_column_is_its_reference_in_its_time():
    pe = LutInt8Column(rows=2, lanes=8, act_bits=16, kinds=KINDS, group_max=64)
    groups = pe_verify.random_groups(pe, sorted(KINDS), 400, np.random.default_rng(1))
    machine = ColumnMachine(pe)
    for stall in ("none", "all"):
        _, fault = pe_verify.run_groups(machine, groups, stall, 1)
        assert not fault


@pytest.mark.parametrize("kind", sorted(KINDS), ids=lambda kind: kind.name)
def test_without_rounding_the_reference_is_exact(kind, monkeypatch):
    monkeypatch.setattr(lut_int8, "quantise", lambda tables: (tables, np.zeros(tables.shape[:-1], np.int64)))
    rng = np.random.default_rng(2)
    for select in range(selects(kind)):
        acts, codes = rng.integers(-128, 128, (3, 24)), rng.integers(0, 1 << KIND_BITS[kind], 24).astype(np.uint8)
        assert (LutInt8Column.reference(acts, codes, kind, select)
                == PeColumn.reference(acts, codes, kind, select)).all()


def test_rounding_is_to_the_nearest_of_the_smallest_shift():
    rng = np.random.default_rng(3)
    tables = rng.integers(-(1 << 18), 1 << 18, (2000, 8)) >> rng.integers(0, 18, (2000, 1))
    codes, shifts = quantise(tables)
    assert np.abs(codes).max() == 127
    error = np.abs((codes << shifts[:, None]) - tables)
    assert ((2 * error <= 1 << shifts[:, None]) | (np.abs(codes) == 127)).all()
    largest = np.abs(tables).max(1)
    assert (largest[shifts > 0] >= 1 << shifts[shifts > 0] + 6).all() and (largest >> shifts <= 128).all()


def test_its_error_on_gaussian_activations():
    # reference/pe_papers.md, section 1.3: NMSE 1.0e-5 with a float scale a table; a power of two has up to a bit less.
    rng = np.random.default_rng(4)
    acts = rng.standard_normal((64, 1024))
    acts = np.rint(acts / np.abs(acts).max(1, keepdims=True) * 32767).astype(np.int64)
    codes = rng.integers(0, 4, 1024).astype(np.uint8)
    exact = PeColumn.reference(acts, codes, WeightKind.INT2, 0)
    error = LutInt8Column.reference(acts, codes, WeightKind.INT2, 0) - exact
    nmse = (error.astype(float) ** 2).sum() / (exact.astype(float) ** 2).sum()
    assert nmse == pytest.approx(3.1e-5, rel=0.1)


def test_lanes_are_whole_tables():
    with pytest.raises(ValueError, match="a multiple of 4, not 6"):
        LutInt8Column(rows=1, lanes=6, act_bits=8, kinds=KINDS, group_max=64)
