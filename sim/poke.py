"""Opens an Amaranth component as a Verilated model to be driven by hand, cycle by cycle."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amaranth.back import verilog
from amaranth.lib import wiring

from wordline.sim import toolchain


@contextlib.contextmanager
def poke(component: wiring.Component, name: str) -> Iterator[Any]:
    """A live model of ``component``, built with Verilator and opened in pyverilator.

    Inputs are set and outputs read as attributes, under their Verilog names; values are unsigned
    bit patterns, so mask a negative number to the port's width::

        with poke(BitSerialDot(...), "dot") as sim:
            sim.io.rst = 0
            sim.io.weights__valid = 1
            sim.io.weights__payload = -3 & 0xFF
            sim.clock.tick()
            print(sim.io.psum__payload)

    Every write settles the combinational logic. ``sim.clock.tick()`` is one rising edge of ``clk``;
    ``sim.start_vcd_trace("x.vcd")`` records from there on. The model is deleted on exit.

    Parameters
    ----------
    component : wiring.Component
    name : str
        Name of the top module.

    Raises
    ------
    MissingTool
        Verilator, pyverilator or Perl, through which pyverilator starts Verilator, is not there.
    subprocess.CalledProcessError
        The model does not build.
    """
    try:
        # Untyped, and needed by nothing else: whoever only runs programs does without it.
        from pyverilator import PyVerilator
    except ImportError as error:
        raise toolchain.MissingTool("pyverilator", "pip install pyverilator-mm") from error
    toolchain.perl()
    with tempfile.TemporaryDirectory(prefix="wordline-poke-") as folder:
        source = Path(folder) / f"{name}.v"
        source.write_text(verilog.convert(component, name=name, emit_src=False))
        with toolchain.verilator().on_path():
            sim = PyVerilator.build(
                str(source),
                # Its default is an empty file name, on which this Verilator stops.
                preceding_files="-Wno-lint",
                build_dir=str(Path(folder) / "build"),
                args=["--quiet"],
                # After pyverilator's own --std=c++11, which is too old for Verilator's headers.
                cargs="--std=c++17",
                dump_level=99,
                quiet=True,
            )
        yield sim
