"""Traces for other simulators: their form, and the times that docs give for them."""

import numpy as np
import pytest

from wordline.sim.dram_devices import DEVICES, device
from wordline.sim.dram_export import PATTERNS, expected, pattern, write_trace


def test_forms(tmp_path):
    addresses = np.array([0, 64, 0xABC0], np.uint64)
    write_trace(tmp_path / "d", addresses, "dramsim3", np.array([False, True, False]))
    assert (tmp_path / "d").read_text() == "0x0 READ 0\n0x40 WRITE 0\n0xABC0 READ 0\n"
    write_trace(tmp_path / "r", addresses, "ramulator2", np.array([False, True, False]))
    assert (tmp_path / "r").read_text() == "LD 0x0\nST 0x40\nLD 0xabc0\n"
    with pytest.raises(ValueError, match="dramsim3, ramulator2"):
        write_trace(tmp_path / "x", addresses, "dramsys")


@pytest.mark.parametrize("name", DEVICES)
def test_patterns_are_what_they_say(name):
    timing = device(name)
    results = {kind: expected(timing, pattern(kind, timing, 4000)) for kind in PATTERNS}
    row = timing.burst_bytes * timing.columns
    assert (np.diff(pattern("strided", timing, 9)) == row).all()
    assert results["sequential"].counters.hits > results["strided"].counters.hits
    assert results["sequential"].share_of_peak > results["random"].share_of_peak
    with pytest.raises(ValueError, match="sequential, strided, random"):
        pattern("zigzag", timing, 1)


def test_a_short_sequence_by_hand():
    # ACT at 0, RD at tRCD = 17, then a burst every tCCD_S = 4, four bank groups in turn; the last data ends CL + 4
    # clocks after its RD.
    timing = device("ddr4-2400")
    result = expected(timing, pattern("sequential", timing, 16))
    assert result.counters.commands["RD"] == 16 and result.counters.commands["ACT"] == 4
    assert result.clocks == 17 + 15 * 4 + 17 + 4
