"""What a configuration takes of a device: synthesised part by part, equal parts once, against the capacity.

Yosys maps each part with the hierarchy below it flattened; parts are the units of the core, and below them
whatever occurs more than once (a column of the array, a lane of the vector unit). A flat synthesis of everything
would take hours for a large array and is not far from the sum (`wordline fpga resources --flat` prints both).
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from wordline.fpga.devices import Device
from wordline.fpga.memories import Placement, place
from wordline.fpga.netlist import Netlist, canonical, style_memories
from wordline.fpga.synth import count, plain_command
from wordline.rtl.config import Config

CORE = "\\accelerator.core"
#: Repeated modules below this many characters of Verilog stay in the part that they are in.
REPEATED = 15000

#: Runs Yosys with arguments in a folder.
Run = Callable[[list[str], Path], str]
Counts = dict[str, float]


@dataclass(frozen=True)
class Estimate:
    """Counts of a configuration on a device.

    Attributes
    ----------
    units : dict[str, Counts]
        By unit of the core; "memories and wiring" is the core itself, with banks and activation buffer.
    parts : dict[str, tuple[int, Counts]]
        What was synthesised: name -> how often it is there, and the counts of one.
    """

    device: Device
    units: dict[str, Counts]
    parts: dict[str, tuple[int, Counts]] = field(default_factory=dict)

    @property
    def total(self) -> Counts:
        return {name: sum(unit[name] for unit in self.units.values()) for name in self.device.capacity}

    @property
    def excess(self) -> Counts:
        """What the design needs and the device does not have."""
        return {name: used - self.device.capacity[name] for name, used in self.total.items()
                if used > self.device.capacity[name]}


def command(device: Device) -> str:
    """The Yosys commands for a part of a design: no buffers of pins and clocks."""
    if device.family == "ecp5":
        return "synth_ecp5 -no-rw-check -top part"
    uram = " -uram" if device.capacity["URAM"] else ""
    return plain_command("xilinx", "part", f"-family {device.family}{uram} -noiopad -noclkbuf")


class Estimator:
    """Synthesises parts and remembers them in a folder, by a hash of what was synthesised.

    Parameters
    ----------
    yosys : Run
    version : str of Yosys; another one counts anew
    cache : Path, a folder that may be shared by processes
    say : called with a line before each part that is not in the cache
    """

    def __init__(self, yosys: Run, version: str, cache: Path, say: Callable[[str], None] = lambda line: None):
        self.yosys, self.version, self.cache, self.say = yosys, version, cache, say

    def _part(self, netlist: Netlist, name: str, cut: set[str], device: Device, placement: Placement) -> Counts:
        """Counts of one part without the parts below it."""
        inside = [name, *netlist.below(name, cut)]
        stubs = {child for module in inside for _, child in netlist.modules[module].children if child in cut}
        text = [replace(m, name="part" if m.name == name else m.name,
                        body=style_memories(m.body, placement.of(m.name))).text
                for m in (netlist.modules[module] for module in inside)]
        text += [netlist.modules[stub].stub for stub in sorted(stubs)]
        run = command(device)
        key = hashlib.sha256(repr((canonical("\n".join(text)), run, self.version)).encode()).hexdigest()[:24]
        entry = self.cache / f"cells-{key}.json"
        if not entry.exists():
            self.say(f"synthesising {_plain(name)} for {device.board}")
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "part.v").write_text("\n".join(text))
                script = f"read_verilog part.v; {run}; tee -q -o stat.json stat -json"
                self.yosys(["-q", "-p", script], Path(folder))
                fresh = entry.with_suffix(f".{id(self)}")
                fresh.write_text((Path(folder) / "stat.json").read_text())
                fresh.replace(entry)
        target = "ecp5" if device.family == "ecp5" else "xilinx"
        return count(entry.read_text(), target)

    def estimate(self, config: Config, sources: dict[str, str], device: Device, *, flat: bool = False) -> Estimate:
        """Counts of a configuration whose Verilog is `sources`; `flat` synthesises everything as one part.

        For the ECP5 it is always one part: what fits that device is small, and `abc9` fails on parts of it.
        """
        netlist = Netlist(sources.values(), "accelerator")
        placement = Placement({})
        if device.family != "ecp5":
            placement = place(netlist, urams=device.capacity["URAM"], brams=device.capacity["BRAM36"])
        if flat or device.family == "ecp5":
            return Estimate(device, {"accelerator": self._part(netlist, "accelerator", set(), device, placement)})
        cut = netlist.cuts({"accelerator", CORE}, REPEATED)
        one: dict[str, Counts] = {}
        times: Counter[str] = Counter()
        first: dict[str, str] = {}

        def total(name: str) -> Counts:
            kind = first.setdefault(netlist.hash(name), name)
            if kind not in one:
                one[kind] = self._part(netlist, kind, cut, device, placement)
            times[kind] += 1
            counts = dict(one[kind])
            for module in (name, *netlist.below(name, cut)):
                for _, child in netlist.modules[module].children:
                    if child in cut:
                        counts = {key: value + more for (key, value), more in
                                  zip(counts.items(), total(child).values(), strict=True)}
            return counts

        units = {instance: total(child) for instance, child in netlist.modules[CORE].children}
        units["memories and wiring"] = self._part(netlist, CORE, cut, device, placement)
        return Estimate(device, units, {_plain(name): (times[name], counts) for name, counts in one.items()})


def _plain(name: str) -> str:
    return name.removeprefix(CORE + ".").removeprefix("\\")


def smaller_arrays(config: Config) -> list[Config]:
    """Configurations with a smaller array, the largest first: rows, columns and lanes halved."""
    a = config.array
    found = []
    for rows in _halves(a.rows, 1):
        for cols in _halves(a.cols, max(8, config.vector.lanes)):
            for lanes in _halves(a.lanes, max(8, config.vector.lanes)):
                if rows * cols * lanes < a.rows * a.cols * a.lanes:
                    try:
                        found.append(replace(config, array=replace(a, rows=rows, cols=cols, lanes=lanes)))
                    except ValueError:
                        continue  # other fields forbid it
    # Of equal products the one with more columns x lanes: a decoded token uses a single row.
    return sorted(found, key=lambda c: (-c.array.rows * c.array.cols * c.array.lanes, -c.array.cols * c.array.lanes))


def shrink(config: Config, count: Callable[[Config], Estimate], say: Callable[[str], None] = lambda line: None
           ) -> tuple[Config, Estimate] | None:
    """The largest of `smaller_arrays` that fits by `count`, with its count; None if none does.

    The least comes first: where even that does not fit, memories or the vector unit are too large, and the counts of
    all others, of minutes each, would say no more.
    """
    def counted(candidate: Config) -> tuple[Config, Estimate]:
        a = candidate.array
        say(f"trying {a.rows} rows x {a.cols} columns x {a.lanes} lanes")
        return candidate, count(candidate)

    candidates = smaller_arrays(config)
    if not candidates:
        return None
    *others, least = candidates
    last = counted(least)
    if last[1].excess:
        return None
    return next((found for found in map(counted, others) if not found[1].excess), last)


def _halves(value: int, least: int) -> list[int]:
    values = [value]
    while values[-1] % 2 == 0 and values[-1] // 2 >= least:
        values.append(values[-1] // 2)
    return values


def as_dict(estimate: Estimate) -> dict:
    """For scripts."""
    device = estimate.device
    return {"device": device.name, "part": device.part, "source": device.source, "capacity": device.capacity,
            "total": estimate.total, "excess": estimate.excess, "fits": not estimate.excess,
            "units": estimate.units,
            "parts": {name: {"times": times, "each": counts} for name, (times, counts) in estimate.parts.items()}}


def dumps(estimate: Estimate) -> str:
    return json.dumps(as_dict(estimate), indent=2)
