"""The Verilated accelerator executes hand-written programs; its memory shows what they did."""

import _thread
import signal
import threading
import time

import numpy as np
import pytest

from wordline.compiler.asm import assemble
from wordline.compiler.program import ProgramError
from wordline.rtl.config import Config, DramConfig, VectorConfig
from wordline.rtl.isa import Unit
from wordline.rtl.sequencer import BOOT_CYCLES, CYCLES, QUIET_CYCLES
from wordline.sim.rtl import RtlError, RtlMachine

CONFIG = Config(name="test", vector=VectorConfig(lanes=2), dram=DramConfig(size=1 << 20))

SYMBOL = ('.symbol {"address": 0, "dtype": "instruction", "layout": "linear", "name": "program", '
          '"shape": [64], "size": 2048}\n')

TEXT = """
; passes: count from DRAM into r5; x = 2*x + 1 on 37 floats, through DRAM each time
LOAD element=REGISTER register=5 address=4100 signal=CONTROL
VECTOR a_source=IMMEDIATE len=1 immediate=0x3f800000 destination=SCALAR dst=3
CONTROL operation=SYNC wait=LOAD
again:
LOAD address=8192 count=37 signal=VECTOR
VECTOR len=37 a_source=IMMEDIATE multiply=B b_source=L immediate=0x40000000 addend=SCALAR {more}
STORE wait=VECTOR address=8192 src=2 count=37 signal=CONTROL
CONTROL operation=ADDI rd=5 ra=5 value=-1 wait=STORE
CONTROL operation=BNE ra=5 rb=0 target=again
CONTROL operation=MULI rd=6 ra=1 value=3
STORE address=12288+r6 src=2 count=3
CONTROL operation=END
""".format(more="addend_scalar=3 destination=S dst=2 wait=LOAD signal=STORE")

STARVED = "MATMUL rows=1 tiles=3 steps=8 groups=1 planes=8\nVECTOR wait=MATMUL\n"


def program(text):
    result = assemble(SYMBOL + text)
    result.hardware = CONFIG.hardware_hash()
    return result


@pytest.fixture(scope="module")
def machine():
    return RtlMachine(CONFIG)


def run(machine, passes=3, **options):
    """`TEXT`, its result compared."""
    machine.memory[:] = 0
    x = np.random.default_rng(1).standard_normal(37).astype(np.float32)
    machine.memory[4100:4104].view("<u4")[:] = passes
    machine.memory[8192 : 8192 + 148].view("<f4")[:] = x
    result = machine.run(program(TEXT), (4,), **options)
    for _ in range(passes):
        x = x * np.float32(2) + np.float32(1)
    assert np.array_equal(machine.memory[8192 : 8192 + 148].view("<f4"), x)
    assert not machine.memory[8192 + 148 : 12300].any()
    assert np.array_equal(machine.memory[12300:12312].view("<f4"), x[:3])
    assert not machine.memory[12312:].any()
    return result


@pytest.mark.parametrize("passes,stalls,seed", [(1, 0.0, 0), (3, 0.0, 0), (3, 0.4, 1), (4, 0.4, 2), (2, 0.9, 3)])
def test_loop_with_semaphores_and_arguments(machine, passes, stalls, seed):
    result = run(machine, passes, stalls=stalls, seed=seed)
    assert result.ended == {"LOAD": 2 + passes, "STREAM": 0, "MATMUL": 0, "VECTOR": 1 + passes,
                            "STORE": 1 + passes, "CONTROL": 3 + 2 * passes}


def test_cycles_repeat_and_events_agree_with_the_counters(machine):
    first, second = run(machine, record=True), run(machine, record=True)
    assert first.cycles == second.cycles and np.array_equal(first.events, second.events)
    events = {unit: second.events[second.events["unit"] == unit] for unit in Unit}
    for unit, own in events.items():
        assert list(own["index"]) == list(range(second.ended[unit.name]))
        if unit != Unit.CONTROL:
            assert (own["end"] - own["start"]).sum() == second.busy[unit.name]
    boot, sync = events[Unit.LOAD][0], events[Unit.CONTROL]
    assert boot["start"] == 1
    # The register's load is instruction 0 and starts four cycles after its fetch.
    assert events[Unit.LOAD][1]["start"] == boot["end"] + BOOT_CYCLES + CYCLES
    assert sync[0]["end"] == events[Unit.LOAD][1]["end"] + 1
    assert sync[-1]["end"] == events[Unit.STORE][-1]["end"] + 1
    assert second.cycles == sync[-1]["end"] + QUIET_CYCLES + 1


def test_refuses_a_program_for_other_hardware(machine):
    other = program(TEXT)
    other.hardware = "other"
    with pytest.raises(ProgramError, match="compiled for hardware other"):
        machine.run(other)


@pytest.mark.parametrize("text,message", [
    ("LOAD address=2097152 count=4\nCONTROL operation=SYNC wait=LOAD", "BUS_READ"),
    (STARVED + "LOAD address=2097152 count=4\nCONTROL operation=SYNC wait=LOAD", "BUS_READ"),
    (STARVED + "STREAM address=2097152 runs=1 beats=9\nCONTROL operation=END", "BUS_READ"),
    # More beats than the weight FIFO holds, and nobody takes them.
    ("STREAM address=0 runs=3 beats=1000\nLOAD address=2097152 count=4\nCONTROL operation=END", "BUS_READ"),
    ("STORE address=2097152 count=4\nCONTROL operation=END", "BUS_WRITE"),
    ("CONTROL operation=SYNC wait=LOAD", "no end after 20000 cycles; instructions ended: LOAD 1,"),
    (STARVED + "CONTROL operation=END", "no end after 20000 cycles"),
    ("CONTROL operation=END value=7", "PROGRAM_EXIT, exit code 7"),
    ("CONTROL operation=SYNC", "ILLEGAL_INSTRUCTION"),
])
def test_errors_are_reported_and_leave_nothing_behind(machine, text, message):
    clean = run(machine).cycles
    with pytest.raises(RtlError, match=message):
        machine.run(program(text), max_cycles=20000)
    assert run(machine).cycles == clean


def test_beats_that_nobody_took_do_not_reach_the_next_program(machine):
    multiply = """
VECTOR a_source=IMMEDIATE len=64 immediate=0x40400000 function=INT bits=B8 destination=ACT
VECTOR a_source=IMMEDIATE len=1 immediate=0x3f800000 destination=ROW_SCALE
STREAM address=65536 runs=1 beats=64
CONTROL operation=SYNC
MATMUL rows=1 tiles=1 steps=8 groups=1 planes=8 kind=0 signal=VECTOR
VECTOR a_source=M len=8 wait=MATMUL destination=S signal=STORE
STORE address=8192 count=8 wait=VECTOR
CONTROL operation=END
"""
    multiply = multiply.replace("destination=ROW_SCALE", "destination=ROW_SCALE signal=MATMUL").replace(
        "planes=8 kind=0", "planes=8 kind=0 wait=VECTOR")
    machine.memory[:] = 0
    codes = np.random.default_rng(2).integers(0, 256, 4096, dtype=np.uint8)
    machine.memory[65536 : 65536 + 4096] = codes
    fresh = RtlMachine(CONFIG)
    fresh.memory[:] = machine.memory
    clean = fresh.run(program(multiply))
    want = fresh.memory[8192:8224].view("<f4").copy()
    assert len(set(want)) > 4
    machine.run(program("STREAM address=66000 runs=1 beats=77\nCONTROL operation=END"))
    assert machine.run(program(multiply)).cycles == clean.cycles
    assert np.array_equal(machine.memory[8192:8224].view("<f4"), want)


def test_an_interrupt_ends_a_run_within_a_second(machine):
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            machine.run(program("again:\nCONTROL operation=BEQ target=again"), max_cycles=1 << 24)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 3
    run(machine)


def test_without_waveforms_it_says_so(machine, tmp_path):
    with pytest.raises(RtlError, match="waveform=True"):
        machine.run(program(TEXT), (4,), wave=(tmp_path / "a.vcd", 0, 100))


def test_waveform_of_a_window(tmp_path):
    for name in ("a.vcd", "b.vcd"):
        machine = RtlMachine(CONFIG, waveform=True)
        run(machine)
        run(machine, wave=(tmp_path / name, 50, 150))
    text = (tmp_path / "a.vcd").read_text()
    assert text == (tmp_path / "b.vcd").read_text()
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert times[0] == 0 and 980 <= times[-1] < 1000
    assert " trace_start " in text
