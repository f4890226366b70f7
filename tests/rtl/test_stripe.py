"""Several AXI ports as one wide bus, on the generated Verilog."""

import json

import pytest
from amaranth.back import verilog
from runner import run_cocotb

from wordline.rtl.config import BusConfig, ConfigError, load_config
from wordline.rtl.stripe import Stripe


@pytest.mark.parametrize("ports", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_ports_are_one_wide_memory(tmp_path, ports):
    bus = BusConfig(data_bits=32 * ports, ports=ports)
    text = verilog.convert(Stripe(bus), name="stripe", emit_src=False)
    parameters = json.dumps({"ports": ports, "port_bits": bus.port_bits})
    run_cocotb(text, "stripe", "tb_stripe", tmp_path, env={"STRIPE": parameters})


def test_what_ports_may_be():
    assert BusConfig(data_bits=16384, ports=32).page_bytes == 32 * 4096
    with pytest.raises(ConfigError, match=r"bus.ports = 3 is not allowed"):
        BusConfig(ports=3)
    with pytest.raises(ConfigError, match=r"bus.data_bits = 64 is not allowed: a power of two from 128 to 4096"):
        BusConfig(ports=4)
    with pytest.raises(ConfigError, match=r"bus.data_bits = 2048"):
        load_config("ulx3s", ["bus.data_bits=2048"])
