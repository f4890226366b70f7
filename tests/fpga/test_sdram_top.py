"""The ULX3S variant with SDRAM in Icarus, from its serial port to the chip's pins."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog
from runner import run_cocotb

from wordline.fpga.sdram_top import SdramTop
from wordline.fpga.selftest import selftest
from wordline.rtl.config import config_from_dict
from wordline.rtl.sdram import SdramTiming
from wordline.sim import rtl
from wordline.sim.dram_devices import DEVICES

#: The least that a configuration may have.
TINY = config_from_dict({
    "name": "tiny", "array": {"cols": 8, "lanes": 8, "weights": ["int8"], "group_max": 64, "acc_bits": 32},
    "vector": {"lanes": 2}, "bus": {"data_bits": 64, "address_bits": 25}, "dram": {"size": 1 << 16},
    "memory": {"program": 16, "stream_beats": 64, "vector_floats": 64, "matmul_floats": 64, "load_floats": 64,
               "store_floats": 64, "act_elements": 64, "meta_beats": 16}})
STARTUP = 100
TIMING = SdramTiming.of(DEVICES["sdr-133"], startup=STARTUP)
DIVISOR, SILENCE = 2, 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_program_comes_and_goes_over_the_serial_port(tmp_path: Path):
    program, expected = selftest(TINY)
    program.save(tmp_path / "selftest.wlp")
    np.save(tmp_path / "expected.npy", expected)
    top = verilog.convert(SdramTop(TINY, TIMING, divisor=DIVISOR, silence=SILENCE), name="top", emit_src=False)
    sources = rtl.sources(TINY)
    run_cocotb("\n".join([top, *(sources[name] for name in sorted(sources))]), "top", "tb_sdram_top", tmp_path, env={
        "TOP_DIVISOR": str(DIVISOR), "TOP_STARTUP": str(STARTUP), "TOP_FOLDER": str(tmp_path)}, short=True)
