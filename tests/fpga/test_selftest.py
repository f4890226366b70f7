"""The self-test's program on both executors."""

import numpy as np
import pytest

from wordline.fpga.selftest import RESULT, selftest
from wordline.rtl.config import Config, config_from_dict, load_config
from wordline.sim.functional import FunctionalMachine
from wordline.sim.rtl import RtlMachine

SMALL = {"array": {"cols": 8, "lanes": 8, "weights": ["int8", "int4"]}, "vector": {"lanes": 2},
         "memory": {"program": 64}, "dram": {"size": 1 << 16}}


def result(program, memory: np.ndarray) -> np.ndarray:
    symbol = program.symbols[RESULT]
    return memory[symbol.address : symbol.address + symbol.size].view("<f4")


def check(config: Config, machine) -> None:
    program, expected = selftest(config)
    assert np.unique(expected).size > len(expected) // 2  # not all alike
    machine.run(program)
    assert result(program, machine.memory).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["kv260", "kv260_ternary", "ulx3s", "ulx3s_uart", "bitmod"])
def test_every_system_computes_it(name: str):
    config = load_config(name, ["dram.size=4194304"])
    check(config, FunctionalMachine(config))


def test_the_rtl_computes_it():
    config = config_from_dict(SMALL)
    check(config, RtlMachine(config))
