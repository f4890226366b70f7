"""The Verilated accelerator executes hand-written programs; its memory shows what they did."""

import numpy as np
import pytest

from wordline.compiler.asm import assemble
from wordline.compiler.program import ProgramError
from wordline.rtl.config import Config, DramConfig
from wordline.sim.rtl import RtlError, RtlMachine

CONFIG = Config(name="test", dram=DramConfig(size=1 << 20))

TEXT = """
.symbol {"address": 0, "dtype": "instruction", "layout": "linear", "name": "program", "shape": [64], "size": 2048}
; three passes: count from DRAM into r5; x = 2*x + 1 on 37 floats, through DRAM each time
LOAD element=REGISTER register=5 address=4100 signal=CONTROL
CONTROL operation=SYNC wait=LOAD
again:
LOAD address=8192 count=37 signal=VECTOR
VECTOR wait=LOAD len=37 a_source=IMMEDIATE multiply=B b_source=L immediate=0x40000000 addend=SCALAR addend_scalar=3 destination=S dst=2 signal=STORE
STORE wait=VECTOR address=8192 src=2 count=37 signal=CONTROL
CONTROL operation=ADDI rd=5 ra=5 value=-1 wait=STORE
CONTROL operation=BNE ra=5 rb=0 target=again
CONTROL operation=MULI rd=6 ra=1 value=3
VECTOR a_source=IMMEDIATE len=1 immediate=0x3f800000 destination=SCALAR dst=3
STORE address=12288+r6 src=2 count=3
CONTROL operation=END
"""  # noqa: E501


@pytest.fixture(scope="module")
def machine():
    return RtlMachine(CONFIG)


def run(machine, **options):
    program = assemble(TEXT)
    program.hardware = CONFIG.hardware_hash()
    machine.memory[:] = 0
    x = np.random.default_rng(1).standard_normal(37).astype(np.float32)
    machine.memory[4100:4104].view("<u4")[:] = 3
    machine.memory[8192 : 8192 + 148].view("<f4")[:] = x
    result = machine.run(program, (4,), **options)
    return x, result


@pytest.mark.parametrize("stalls", [0.0, 0.4])
def test_program_with_loop_semaphores_and_arguments(machine, stalls):
    # Scalar 3 is 1.0 only after a first run has set it.
    run(machine)
    for seed in range(3):
        x, result = run(machine, stalls=stalls, seed=seed, record=True)
        want = x
        for _ in range(3):
            want = want * np.float32(2) + np.float32(1)
        got = machine.memory[8192 : 8192 + 148].view("<f4")
        assert np.array_equal(got, want)
        assert not machine.memory[8192 + 148 : 8192 + 160].any()
        assert np.array_equal(machine.memory[12300:12312].view("<f4"), want[:3])
        assert result.ended["STORE"] == 4 and result.ended["VECTOR"] == 4
        assert result.cycles > 100
        stores = result.events[result.events["unit"] == 4]
        assert len(stores) == 4 and (stores["end"] > stores["start"]).all()


def test_cycles_repeat(machine):
    assert run(machine)[1].cycles == run(machine)[1].cycles


def test_refuses_a_program_for_other_hardware(machine):
    program = assemble(TEXT)
    program.hardware = "other"
    with pytest.raises(ProgramError, match="compiled for hardware other"):
        machine.run(program)


def test_reports_bus_errors_and_endless_programs():
    for text, message in [
        ("LOAD address=2097152 count=4\nCONTROL operation=SYNC\nCONTROL operation=END", "BUS_READ"),
        ("STORE address=2097152 count=4\nCONTROL operation=END", "BUS_WRITE"),
        ("CONTROL operation=SYNC wait=LOAD", "no end after"),
        ("CONTROL operation=END value=7", "PROGRAM_EXIT, exit code 7"),
    ]:
        program = assemble(TEXT.splitlines()[1] + "\n" + text)
        program.hardware = CONFIG.hardware_hash()
        with pytest.raises(RtlError, match=message):
            RtlMachine(CONFIG).run(program, max_cycles=20000)
