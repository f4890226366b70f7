"""The DRAM model: legal commands only, none later than it must be, and times that a person can work out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordline.sim.dram import COMMANDS, DEVICES, DramError, DramModel, DramTiming, device
from wordline.sim.dram_check import IllegalCommand, check

DDR4 = device("ddr4-2400")
QUEUE = 32


def traffic(timing: DramTiming, bursts: int, seed: int, *, sequential: float = 0.7, writes: float = 0.3,
            spread: int = 4):
    """Arrivals, addresses and writes: streams with jumps, at up to the DRAM's own speed."""
    rng = np.random.default_rng(seed)
    jump = rng.random(bursts) > sequential
    steps = np.where(jump, rng.integers(0, timing.size // timing.burst_bytes, bursts), 1)
    write = np.cumsum(rng.random(bursts) < 0.2) % 2 * (rng.random(bursts) < 2 * writes) > 0
    return np.cumsum(rng.integers(0, spread, bursts)), (np.cumsum(steps) * timing.burst_bytes).astype(np.uint64), write


def commands_of(model: DramModel) -> list[tuple[int, str]]:
    trace = np.sort(model.trace(), order="time")
    return [(int(c["time"]), COMMANDS[c["command"]]) for c in trace]


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("sequential", [0.0, 0.5, 0.97])
def test_commands_are_legal(name, sequential):
    timing = device(name)
    for seed, (core_ps, spread) in enumerate([(5000, 4), (1250, 60), (2 * timing.tck_ps, 1)]):
        model = DramModel(timing, core_ps, front=3, back=5, record=True)
        arrival, address, write = traffic(timing, 2500, seed, sequential=sequential, spread=spread)
        done = model.access(arrival, address, write)
        model.settle(int(done.max()) + 100000)
        check(model.trace(), timing, postponed=0)
        counters = model.counters()
        assert counters.hits + counters.misses + counters.conflicts == 2500
        assert counters.commands["RD"] + counters.commands["WR"] == 2500
        assert counters.commands["WR"] == write.sum()
        assert counters.commands["ACT"] == counters.misses + counters.conflicts
        assert counters.commands["PRE"] == counters.conflicts
        assert counters.commands["REF"] >= timing.channels


@pytest.mark.parametrize("mapping", ["row:column:bank:group:channel", "channel:row:bank:group:column",
                                     "column:group:channel:bank:row"])
def test_commands_are_legal_whatever_the_mapping(mapping):
    timing = device("hbm2", channels=4, mapping=mapping)
    model = DramModel(timing, 4000, record=True)
    model.access(*traffic(timing, 3000, 1))
    check(model.trace(), timing, postponed=0)


times = st.integers(0, 40)


@settings(max_examples=60, deadline=None)
@given(values=st.fixed_dictionaries({name: times for name in (
    "tRAS", "tRC", "tCCD_S", "tCCD_L", "tRRD_S", "tRRD_L", "tFAW", "tWR", "tWTR_S", "tWTR_L", "tRTP", "tRTW", "CL",
    "CWL", "tRFC")} | {name: st.integers(1, 30) for name in ("burst", "tRCD", "tRP")}),
    slack=st.sampled_from([1, 10, 3000]), seed=st.integers(0, 1000))
def test_commands_of_any_timing_are_legal(values, slack, seed):
    timing = replace(DDR4, **values, rows=4, channels=2, tREFI=sum(values.values()) + slack)
    model = DramModel(timing, timing.tck_ps, record=True)
    model.access(*traffic(timing, 400, seed, sequential=seed % 3 / 2, spread=1 + seed % 50))
    check(model.trace(), timing, postponed=0)


# What makes a constraint the one that decides; DDR4-2400 as it is does so for the others.
BINDING = {"tRC": {"tRC": 70}, "tCCD_S": {"tCCD_S": 5}, "CL": {"tRTW": 0}, "burst": {"tCCD_S": 0}}


@pytest.mark.parametrize("name", ["burst", "tRCD", "tRP", "tRAS", "tRC", "tCCD_S", "tCCD_L", "tRRD_S", "tRRD_L",
                                  "tFAW", "tWR", "tWTR_S", "tWTR_L", "tRTP", "tRTW", "CL", "CWL", "tREFI", "tRFC"])
def test_checker_sees_a_constraint_missed_by_one_clock(name):
    timing = replace(DDR4, **BINDING.get(name, {}))
    wrong = replace(timing, **{name: getattr(timing, name) + (1 if name == "tREFI" else -1)})
    requests = traffic(timing, 6000, 7, sequential=0.6, spread=16)
    for used in (timing, wrong):
        model = DramModel(used, 833, record=True)
        model.access(*requests)
        if used is timing:
            check(model.trace(), timing, postponed=0)
        else:
            # What follows from the end of the data is reported under the constraint that counts from there.
            message = {"CL": "data bus", "CWL": "tWR|tWTR|data bus", "burst": "tWR|tWTR|data bus"}.get(name, name)
            with pytest.raises(IllegalCommand, match=message):
                check(model.trace(), timing, postponed=0)


def test_checker_sees_wrong_states():
    model = DramModel(DDR4, 833, record=True)
    model.access(np.zeros(2, np.int64), np.array([0, 1 << 32]))
    trace = model.trace()
    act, read, precharge = (np.flatnonzero(trace["command"] == COMMANDS.index(name))[0]
                            for name in ("ACT", "RD", "PRE"))
    check(trace, DDR4)
    for dropped, message in [(act, "row is not open"), (precharge, "bank is open")]:
        with pytest.raises(IllegalCommand, match=message):
            check(np.delete(trace, dropped), DDR4)
    with pytest.raises(IllegalCommand, match="bank is closed"):
        check(trace[[precharge]], DDR4)
    other_row = trace.copy()
    other_row["row"][read] += 1
    with pytest.raises(IllegalCommand, match="row is not open"):
        check(other_row, DDR4)
    with pytest.raises(IllegalCommand, match="two commands in a clock"):
        check(np.concatenate([trace, trace[[act]]]), DDR4)
    refresh = trace[[act]].copy()
    refresh["command"], refresh["time"] = COMMANDS.index("REF"), 10000
    with pytest.raises(IllegalCommand, match="a bank is open"):
        check(np.concatenate([trace, refresh]), DDR4)
    late = trace[[act]].copy()
    late["time"] = 9 * DDR4.tREFI
    with pytest.raises(IllegalCommand, match="tREFI"):
        check(late, DDR4)


@pytest.mark.parametrize("name", ["ddr4-2400", "lpddr4-3200", "gddr6-16", "sdr-133"])
def test_no_command_could_come_a_clock_earlier(name):
    timing = device(name, channels=1)
    model = DramModel(timing, timing.tck_ps, record=True)
    _, address, write = traffic(timing, 120, 5)
    model.access(np.zeros(120, np.int64), address, write)
    trace = model.trace()
    check(trace, timing)
    for i in range(len(trace)):
        # A refresh waits for its time, the first command for its request: no constraint of the DRAM.
        if COMMANDS[trace["command"][i]] in ("REF", "PREA") or trace["time"][i] == 0:
            continue
        earlier = trace.copy()
        earlier["time"][i] -= 1
        with pytest.raises(IllegalCommand):
            check(earlier, timing)


def test_first_read_opens_its_row():
    model = DramModel(DDR4, DDR4.tck_ps, front=3, back=5, record=True)
    done = model.access(np.array([10]), np.array([0]))
    assert commands_of(model) == [(13, "ACT"), (13 + 17, "RD")]
    assert done.tolist() == [10 + 3 + DDR4.tRCD + DDR4.CL + DDR4.burst + 5] == [56]


def test_first_write():
    done = DramModel(DDR4, DDR4.tck_ps).access(np.array([0]), np.array([0]), True)
    assert done.tolist() == [DDR4.tRCD + DDR4.CWL + DDR4.burst] == [33]


def test_neighbours_go_to_other_groups():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    done = model.access(np.zeros(8, np.int64), np.arange(8) * 64)
    # ACTs every tRRD_S = 4, so RDs every 4; then row hits, each tCCD_S after the one before.
    assert [t for t, name in commands_of(model) if name == "ACT"] == [0, 4, 8, 12]
    assert [t for t, name in commands_of(model) if name == "RD"] == [17 + 4 * i for i in range(8)]
    assert done.tolist() == [17 + 17 + 4 + 4 * i for i in range(8)]
    assert model.counters().hits == 4 and model.counters().misses == 4


def test_one_group_is_slower():
    timing = device("ddr4-2400", mapping="row:bank:group:column:channel")
    done = DramModel(timing, timing.tck_ps).access(np.zeros(4, np.int64), np.arange(4) * 64)
    assert np.diff(done).tolist() == [timing.tCCD_L] * 3


def test_row_conflict():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    row = DDR4.size // DDR4.rows
    done = model.access(np.zeros(2, np.int64), np.array([0, row]))
    # PRE at tRAS = 39, since RD + tRTP = 17 + 9 is sooner; ACT tRP = 17 later, as tRC = 56 asks too.
    assert commands_of(model) == [(0, "ACT"), (17, "RD"), (39, "PRE"), (56, "ACT"), (73, "RD")]
    assert done[1] == 73 + 17 + 4
    assert model.counters().conflicts == 1


def test_read_after_write_and_write_after_read():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    model.access(np.zeros(3, np.int64), np.zeros(3), np.array([True, False, True]))
    read = 17 + DDR4.CWL + DDR4.burst + DDR4.tWTR_L
    assert commands_of(model) == [(0, "ACT"), (17, "WR"), (read, "RD"), (read + DDR4.tRTW, "WR")]


def test_fifth_activate_waits_for_tfaw():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    bank = DDR4.size // DDR4.rows // DDR4.banks
    model.access(np.zeros(5, np.int64), np.array([0, 64, 128, 192, bank]))
    assert [t for t, name in commands_of(model) if name == "ACT"] == [0, 4, 8, 12, DDR4.tFAW]


def test_refresh_goes_first():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    # The second would read at tREFI - 1 and does; the third would at tREFI, so it waits.
    due = DDR4.tREFI
    done = model.access(np.array([0, due - 1, due - 1]), np.array([0, 0, 0]))
    assert done[1] == due - 1 + DDR4.CL + DDR4.burst
    precharge = due - 1 + DDR4.tRTP
    refresh = precharge + DDR4.tRP
    assert commands_of(model)[3:6] == [(precharge, "PREA"), (refresh, "REF"), (refresh + DDR4.tRFC, "ACT")]
    assert model.counters().refresh_clocks == refresh + DDR4.tRFC - due


def test_idle_dram_is_refreshed_on_time():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    model.access(np.array([0]), np.array([0]))
    model.settle(3 * DDR4.tREFI)
    assert [c for c in commands_of(model) if c[1] != "RD"][1:] == [
        (DDR4.tREFI, "PREA"), (DDR4.tREFI + DDR4.tRP, "REF"), (2 * DDR4.tREFI, "REF"), (3 * DDR4.tREFI, "REF")]


def test_row_commands_run_ahead_by_the_queue():
    model = DramModel(DDR4, DDR4.tck_ps, record=True)
    bank = DDR4.size // DDR4.rows // DDR4.banks
    model.access(np.zeros(41, np.int64), np.array([*range(0, 40 * 256, 256), bank]))  # 40 hits, then another bank
    reads = [t for t, name in commands_of(model) if name == "RD"]
    activate = [t for t, name in commands_of(model) if name == "ACT"][1]
    assert activate == reads[40 - QUEUE] + 1


def test_channels_work_side_by_side():
    timing = device("hbm2", channels=2)
    done = DramModel(timing, timing.tck_ps).access(np.zeros(2, np.int64), np.array([0, 32]))
    assert done[0] == done[1]


def test_clocks_are_converted_exactly():
    """Core of 300 MHz: request at 2 * 3333 ps waits for clock 9 (8.0024); its data comes at clock 9 + 38."""
    done = DramModel(DDR4, 3333, back=1).access(np.array([2]), np.array([0]))
    assert done.tolist() == [-(-(9 + 38) * 833 // 3333) + 1]


def test_calls_continue_one_another():
    arrival, address, write = traffic(DDR4, 1000, 3)
    whole, parts = DramModel(DDR4, 5000), DramModel(DDR4, 5000)
    expected = whole.access(arrival, address, write)
    done = [parts.access(arrival[i:i + 100], address[i:i + 100], write[i:i + 100]) for i in range(0, 1000, 100)]
    assert np.array_equal(np.concatenate(done), expected)
    assert parts.counters() == whole.counters()


# Sequential reads over the peak. What misses below 1 - tRFC / tREFI: closing rows for the refresh and opening them
# after it; for GDDR6 also row changes, whose tRP + tRCD + 3 tRRD = 101 clocks are more than QUEUE bursts of 2 hide.
EFFICIENCY = {"ddr4-2400": 0.950, "ddr4-3200": 0.950, "lpddr4-3200": 0.917, "lpddr5-6400": 0.933, "hbm2": 0.934,
              "hbm2-1800": 0.933, "gddr6-16": 0.875, "sdr-133": 0.985}


@pytest.mark.parametrize("name", DEVICES)
def test_sequential_reads_come_near_the_peak(name):
    timing = device(name)
    bursts = max(200_000, 30_000 * timing.channels)  # several refreshes each
    done = DramModel(timing, 1000).access(np.zeros(bursts, np.int64), np.arange(bursts) * timing.burst_bytes)
    efficiency = bursts * timing.burst_bytes / (done.max() * 1e-9) / timing.peak_bytes_per_second
    assert EFFICIENCY[name] <= efficiency <= 1 - timing.tRFC / timing.tREFI


def test_peaks():
    """Bytes per second that the names promise."""
    peaks = {name: timing.peak_bytes_per_second / timing.channels / 1e9 for name, timing in DEVICES.items()}
    assert peaks == pytest.approx({"ddr4-2400": 19.2, "ddr4-3200": 25.6, "lpddr4-3200": 6.4, "lpddr5-6400": 12.8,
                                   "hbm2": 16.0, "hbm2-1800": 14.4, "gddr6-16": 32.0, "sdr-133": 0.2667},
                                  rel=1e-3)


@pytest.mark.parametrize(("change", "message"), [
    ({"channels": 3}, "power of two"), ({"tRCD": 0}, "at least 1"), ({"CL": -1}, "0 to"), ({"tREFI": 400}, "tREFI"),
    ({"mapping": "row:bank:column:group"}, "name each"), ({"mapping": "row:row:bank:column:group"}, "name each")])
def test_impossible_drams_are_refused(change, message):
    with pytest.raises(DramError, match=message):
        replace(DDR4, **change)


def test_bad_calls_are_refused():
    with pytest.raises(DramError, match="there are ddr4-2400"):
        device("ddr9")
    with pytest.raises(DramError, match="core_ps"):
        DramModel(DDR4, 0)
    model = DramModel(DDR4, 1000)
    model.access(np.array([5]), np.array([0]))
    for arrival in ([4], [6, 5]):
        with pytest.raises(DramError, match="decrease"):
            model.access(np.array(arrival), np.zeros(len(arrival)))
    with pytest.raises(DramError, match="shape"):
        model.access(np.array([9, 9]), np.array([0]))
