"""The count by parts: what is equal, where it is cut, where memories go. Yosys runs in the slow test only."""

import json
import re
from pathlib import Path

import pytest

from wordline.fpga.devices import DEVICES, find_device
from wordline.fpga.memories import bram36, place, uram
from wordline.fpga.netlist import Netlist, style_memories
from wordline.fpga.resources import CORE, Estimator, smaller_arrays
from wordline.rtl.config import ConfigError, config_from_dict, load_config
from wordline.sim import rtl, toolchain

SMALL = {"array": {"cols": 8, "lanes": 8, "rows": 2}, "vector": {"lanes": 4}}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return rtl.sources(config_from_dict(SMALL))


@pytest.fixture(scope="module")
def netlist(sources: dict[str, str]) -> Netlist:
    return Netlist(sources.values(), "accelerator")


def test_lanes_are_equal_and_units_are_not(netlist: Netlist):
    lanes = {netlist.hash(name) for name in netlist.modules if re.fullmatch(r".*vector\.lane_\d+", name)}
    assert len(lanes) == 1
    units = [child for _, child in netlist.modules[CORE].children]
    assert len(units) == 9 and len({netlist.hash(name) for name in units}) == 9


def test_one_changed_constant_makes_a_module_another(sources: dict[str, str]):
    text = sources["accelerator.v"]
    start = text.index("module \\accelerator.core.vector.lane_2.to_int ")
    at = text.index("32'd", start)
    changed = text[:at] + "32'd7" + text[at + 5 :]
    nets = [Netlist([t, sources["column.v"]], "accelerator") for t in (text, changed)]
    name = "\\accelerator.core.vector.lane_2"
    assert nets[0].hash(name) != nets[1].hash(name)
    assert nets[0].hash(name.replace("2", "1")) == nets[1].hash(name.replace("2", "1"))


def test_every_module_belongs_to_one_part(netlist: Netlist):
    cut = netlist.cuts({"accelerator", CORE}, 15000)
    assert "column" in cut
    owners: dict[str, set[str]] = {}
    for part in cut:
        for name in (part, *netlist.below(part, cut)):
            owners.setdefault(name, set()).add(part)
    everything = set(netlist.modules) - {"accelerator", CORE}
    assert set(owners) >= everything and all(len(parts) == 1 for parts in owners.values())


def test_sizes_of_memories():
    assert bram36(72, 512) == 1 and bram36(36, 512) == 0.5 and bram36(512, 8192) == 114
    assert bram36(256, 8192) == 58  # 29 of 9 bits, twice over; of 4 bits it would be 64
    assert uram(512, 8192) == 16 and uram(72, 4096) == 1


def test_uram_takes_what_saves_most(netlist: Netlist):
    none = place(netlist, urams=0, brams=1000)
    assert "ultra" not in none.styles.values()
    some = place(netlist, urams=1000, brams=0)
    assert {key for key, style in some.styles.items() if style == "ultra"} == \
        {key for key, style in none.styles.items() if style == "block"}
    assert some.styles[CORE + ".dispatch.queue_load", "storage"] == "distributed"


def test_styles_go_before_the_declaration_and_zeros_go():
    body = ("  reg [7:0] a [1:0];\n  initial begin\n    a[0] = 8'h00;\n    a[1] = 8'h00;\n  end\n"
            "  reg [7:0] b [1:0];\n  initial begin\n    b[0] = 8'h10;\n    b[1] = 8'h00;\n  end\n")
    text = style_memories(body, {"a": "ultra"})
    assert '(* ram_style = "ultra" *)\n  reg [7:0] a [1:0];' in text and "a[0]" not in text
    assert "b[0] = 8'h10;" in text


def fake_yosys(calls: list[str], cells: dict[str, int]):
    def run(args: list[str], folder: Path) -> str:
        text = (folder / "part.v").read_text()
        calls.append(text)
        (folder / "stat.json").write_text(json.dumps({"design": {"num_cells_by_type": cells}}))
        return ""
    return run


def test_equal_parts_are_synthesised_once_and_counted_as_often(sources: dict[str, str], tmp_path: Path):
    calls: list[str] = []
    device, config = find_device("kv260"), config_from_dict(SMALL)
    estimator = Estimator(fake_yosys(calls, {"LUT6": 1, "FDRE": 2}), "1", tmp_path)
    estimate = estimator.estimate(config, sources, device)
    times = {name: times for name, (times, _) in estimate.parts.items()}
    assert times["column"] == 8 and times["vector.lane_0"] == 4
    assert estimate.total["LUT"] == sum(times.values()) + 1  # one for the core itself
    assert estimate.total["FF"] == 2 * estimate.total["LUT"]
    # Units of different hash may share a cache entry only if they are equal.
    assert len(calls) == len(times) + 1
    again = Estimator(fake_yosys(calls, {}), "1", tmp_path).estimate(config, sources, device)
    assert again.total == estimate.total and len(calls) == len(times) + 1
    Estimator(fake_yosys(calls, {}), "2", tmp_path).estimate(config, sources, device)
    assert len(calls) == 2 * (len(times) + 1)


def test_what_does_not_fit_is_named(sources: dict[str, str], tmp_path: Path):
    estimator = Estimator(fake_yosys([], {"LUT6": 10**6}), "1", tmp_path)
    excess = estimator.estimate(config_from_dict(SMALL), sources, find_device("arty-a7")).excess
    assert set(excess) == {"LUT"} and excess["LUT"] > 10**6


def test_smaller_arrays_come_largest_first():
    config = load_config("kv260")
    sizes = [c.array.rows * c.array.cols * c.array.lanes for c in smaller_arrays(config)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] < config.array.rows * 256


def test_devices_have_sources():
    assert all(device.source and device.part for device in DEVICES.values())
    with pytest.raises(ConfigError, match="no device 'kv26': one of"):
        find_device("kv26")


@pytest.mark.slow
def test_parts_add_up_to_the_whole():
    """Parts miss what could be shared or left out across their borders: a few percent more."""
    yosys = toolchain.yosys()
    estimator = Estimator(lambda args, cwd: yosys.run(args, cwd=cwd), yosys.version, toolchain.cache_dir())
    config = config_from_dict(SMALL)
    parts, whole = (estimator.estimate(config, rtl.sources(config), find_device("kv260"), flat=flat).total
                    for flat in (False, True))
    assert parts["DSP"] == whole["DSP"] and parts["BRAM36"] == whole["BRAM36"]
    assert parts["LUT"] == pytest.approx(whole["LUT"], rel=0.05)
    assert parts["FF"] == pytest.approx(whole["FF"], rel=0.05)
