"""Builds generated Verilog and runs a cocotb test module on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from wordline.sim import toolchain


def run_cocotb(
    verilog_text: str,
    toplevel: str,
    module: str,
    tmp_path: Path,
    env: Mapping[str, str] | None = None,
    seed: int = 1,
    fast: bool = False,
    short: bool = False,
    pins: Sequence[str] = (),
) -> None:
    """Runs the cocotb tests of ``module`` and fails unless there are some and all pass.

    Verilator is used where it is installed, Icarus otherwise; the other way round if the run is `short`.
    What the simulator prints goes to pytest's captured output, so a failure shows the cocotb log.

    Parameters
    ----------
    verilog_text : str
        From ``amaranth.back.verilog.convert(..., name=toplevel, emit_src=False)``.
    toplevel : str
        Name of the top module.
    module : str
        Importable name of the test bench: a file in ``tests/cosim`` without its ``.py``.
    tmp_path : Path
        pytest's fixture; sources, build and results stay below it.
    env : Mapping[str, str]
        Parameters for the test bench, which it reads from ``os.environ``.
    seed : int
        ``cocotb.RANDOM_SEED`` in the test bench.
    fast : bool
        Compile for speed: for millions of cycles in which the test bench sleeps.
    short : bool
        So few cycles that Icarus, which compiles in a second, is done before Verilator has compiled.
    pins : Sequence[str]
        Ports of the top, if the test bench looks at nothing else: Verilator need not keep any other signal. Of a
        netlist it then sees that the clock of every flip-flop is the same.
    """
    source = tmp_path / f"{toplevel}.v"
    source.write_text(verilog_text)
    simulator, tool = _simulator(short)
    # Under SystemVerilog's rules Icarus does not run `always @*` at time 0, which Yosys' Verilog relies on.
    build_args = ["-g2001"] if simulator == "icarus" else ["-Wno-lint", "-Wno-style", "-Wno-fatal"]
    with tool.on_path():
        if simulator == "verilator":
            # The test bench is Python: a faster model would not pay for its compilation.
            speed = "OPT_FAST=-O2 OPT_SLOW=-O0" if fast else "OPT_FAST=-O0"
            os.environ["MAKEFLAGS"] = f"{os.environ.get('MAKEFLAGS', '')} {speed}".lstrip()
            build_args += ["--inline-mult", "1", "--output-split-cfuncs", "500", "--x-assign", "0",
                           "--x-initial", "0"] if fast else []
        sources = [source]
        if simulator == "verilator" and pins:
            control = tmp_path / "pins.vlt"
            control.write_text("`verilator_config\n" + "".join(
                f'public_flat_rw -module "{toplevel}" -var "{pin}"\n' for pin in pins))
            sources.insert(0, control)
            build_args.append("--no-public-flat-rw")  # cocotb asks for all signals
        runner = get_runner(simulator)
        runner.build(
            sources=sources,
            hdl_toplevel=toplevel,
            build_dir=tmp_path / "build",
            build_args=build_args,
            timescale=("1ns", "1ps"),
            always=True,
        )
        results = tmp_path / "results.xml"
        # Under pytest the runner exits when a test fails; the results file says so with numbers.
        with contextlib.suppress(SystemExit):
            runner.test(
                hdl_toplevel=toplevel,
                test_module=module,
                build_dir=tmp_path / "build",
                test_dir=tmp_path,
                results_xml=str(results),
                extra_env=dict(env or {}),
                seed=seed,
                timescale=("1ns", "1ps"),
            )
    count, failed = get_results(results)
    assert failed == 0, f"{failed} of {count} cocotb tests failed on {toplevel}, seed {seed}"
    assert count > 0, f"{module} holds no cocotb test"


def _simulator(short: bool) -> tuple[str, toolchain.Tool]:
    """The one that is wanted, else the other; raises `toolchain.MissingTool` if there is neither."""
    find = {"verilator": toolchain.verilator, "icarus": toolchain.icarus}
    first, second = ("icarus", "verilator") if short else ("verilator", "icarus")
    try:
        return first, find[first]()
    except toolchain.MissingTool:
        return second, find[second]()
