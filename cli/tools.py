"""``wordline compile``, ``disasm``, ``gen``, ``synth`` and ``pe list``."""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from wordline.cli.common import (
    ConfigArgument,
    JsonOption,
    ModelArgument,
    SetOption,
    console,
    one_line_errors,
    say,
)
from wordline.cli.fpga import fitting
from wordline.compiler.asm import disassemble
from wordline.compiler.model import load_model
from wordline.compiler.program import Program
from wordline.compiler.transformer import compile_model
from wordline.fpga import ip
from wordline.fpga import synth as fpga_synth
from wordline.fpga.devices import DEVICES
from wordline.pe.family import FAMILIES, family
from wordline.rtl import verilog
from wordline.rtl.config import ConfigError, load_config
from wordline.sim import rtl, toolchain


def compile_(
    config: ConfigArgument,
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Program file to write.")] = Path("program.wlp"),
    context: Annotated[int, typer.Option(help="Longest sequence; 0: what the model was trained for.")] = 0,
    set_: SetOption = None,
) -> None:
    """Compile a model to a program file.

    Example:  wordline compile bitmod austen -o austen.wlp --set types.weights=bitmod_fp3
    """
    with one_line_errors():
        start = time.time()
        program = compile_model(load_model(model), load_config(config, set_ or []), context=context)
        program.save(output)
        print(f"{output}: {len(program.instructions)} instructions, {program.memory_size} bytes of DRAM, "
              f"hardware {program.hardware}, {time.time() - start:.1f} s")


def disasm(
    program: Annotated[Path, typer.Argument(help="A program file.")],
    data: Annotated[bool, typer.Option(help="Also the initial memory, so that the text assembles again.")] = False,
) -> None:
    """Print a program file as text."""
    with one_line_errors():
        print(disassemble(Program.load(program), image=data), end="")


def gen(
    config: ConfigArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    target: Annotated[str, typer.Option(help="IP for a device, with everything that Vivado, FuseSoC, LiteX and a host "
                                        f"need: {', '.join(d.name for d in DEVICES.values() if d.family != 'ecp5')}.")
                      ] = "",
    fit: Annotated[bool, typer.Option("--fit", help="With --target: if it does not fit the device, take the largest "
                                      "smaller array that does.")] = False,
    check: Annotated[bool, typer.Option(help="With --target: count first whether it fits, and refuse what does not "
                                        "(minutes of Yosys, once).")] = True,
    set_: SetOption = None,
) -> None:
    """Write the Verilog of a configuration, or IP with AXI ports for a device that it fits.

    Examples:

      wordline gen ulx3s -o build/ulx3s

      wordline gen kv260 --target kv260 -o build/kv260

      wordline gen ulx3s --target pynq-z2 --set array.lanes=64 --fit -o build/pynq
    """
    with one_line_errors():
        start = time.time()
        cfg = load_config(config, set_ or [])
        if fit and not target:
            raise ConfigError("--fit: only with --target, which says what it is to fit")
        if target:
            device = ip.find_target(target, cfg)
            if check:
                cfg = fitting(cfg, device, fit)
            say(f"Verilog of {cfg.name} (a minute for a large array)")
            paths = ip.write(cfg, rtl.sources(cfg), device, output)
        else:
            paths = verilog.write(cfg, output)
        for path in paths:
            print(f"{path}  {path.stat().st_size} bytes")
        console.print(f"{time.time() - start:.1f} s")


def synth(
    config: ConfigArgument,
    target: Annotated[Literal["ecp5", "xilinx"], typer.Option(help="Cells to map to.")] = "ecp5",
    route: Annotated[bool, typer.Option(help="ECP5: place and route with nextpnr for the clock (minutes).")] = False,
    seed: Annotated[int, typer.Option(help="Seed of place and route; not every one routes.")] = 2,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Count what a configuration takes on an FPGA: LUTs, flip-flops, multipliers, block RAM; and its clock.

    Example:  wordline synth ulx3s --route
    """
    with one_line_errors():
        cfg = load_config(config, set_ or [])
        yosys = toolchain.yosys()
        say(f"Yosys {yosys.version}: {cfg.name} for {target} (minutes; a first run compiles Yosys itself)")

        def run_yosys(args, cwd):
            return yosys.run(args, cwd=cwd)

        with tempfile.TemporaryDirectory() as folder:
            if route and target == "ecp5":
                nextpnr = toolchain.nextpnr("ecp5")
                result = fpga_synth.place_and_route(
                    cfg, run_yosys, lambda args, cwd: nextpnr.run(args, cwd=cwd), Path(folder), seed=seed)
            else:
                result = fpga_synth.synthesise(cfg, target, run_yosys, Path(folder))
        if json_:
            print(json.dumps({"config": cfg.name, "target": target, "counts": result.counts,
                              "fmax_mhz": result.fmax_mhz, "tool": f"yosys {yosys.version}"}, indent=2))
            return
        table = Table("resource", "used", *(["LFE5U-85F has"] if target == "ecp5" else []))
        for name, used in result.counts.items():
            table.add_row(name, f"{used:g}", *([f"{fpga_synth.ECP5_85F[name]}"] if target == "ecp5" else []))
        Console().print(table)
        if result.fmax_mhz is not None:
            print(f"{result.fmax_mhz:.1f} MHz after routing (wanted {cfg.clock_mhz:g})")


pe = typer.Typer(no_args_is_help=True, help="Processing elements.")


@pe.callback()
def _pe() -> None:
    """Processing elements."""


@pe.command("list")
def pe_list(
    lanes: Annotated[int, typer.Option(min=1, help="Products along K per step.")] = 16,
    act_bits: Annotated[int, typer.Option(min=4, max=16, help="Bits of an activation: 4, 8 or 16.")] = 8,
    json_: JsonOption = False,
) -> None:
    """List the families, what each decodes, and its declared timing."""
    rows = []
    for name in FAMILIES:
        cls = family(name)
        for kind in sorted(cls.KINDS):
            timing = cls.timing(kind, lanes, act_bits)
            rows.append({"family": name, "kind": kind.name, "interval": timing.interval, "latency": timing.latency})
    if json_:
        print(json.dumps(rows, indent=2))
        return
    table = Table("family", "weight kind", "cycles per step", "latency",
                  title=f"{lanes} lanes, {act_bits}-bit activations")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console().print(table)
