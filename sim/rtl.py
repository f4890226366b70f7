"""Runs programs on the RTL: Verilog through Verilator into a shared library, compiled once per hardware."""

import contextlib
import ctypes
import hashlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wordline.compiler.program import Program
from wordline.rtl import verilog
from wordline.rtl.config import Config
from wordline.rtl.isa import Csr, ErrorCode, Unit
from wordline.rtl.sequencer import ARGUMENTS
from wordline.sim import dram, toolchain, verilated
from wordline.sim.result import EVENT, RunResult

_SLICE = 0.1  # seconds between looks at Ctrl-C and progress


class RtlError(RuntimeError):
    """The program on the RTL ended with an error, or did not end."""


def sources(config: Config) -> dict[str, str]:
    """The Verilog of a configuration, cached on disk by hardware and by the code that generates it."""
    code = hashlib.sha256()
    for package in (Path(verilog.__file__).parent, Path(verilog.__file__).parent.parent / "pe"):
        for path in sorted(package.glob("*.py")):
            code.update(path.read_bytes())
    folder = toolchain.cache_dir() / f"verilog-{config.hardware_hash()}-{code.hexdigest()[:16]}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(dir=toolchain.cache_dir()) as temporary:
            fresh = Path(temporary) / "verilog"
            fresh.mkdir()
            for name, text in verilog.emit(config).items():
                (fresh / name).write_text(text)
            with contextlib.suppress(OSError):  # another process was faster
                fresh.replace(folder)
    return {path.name: path.read_text() for path in sorted(folder.glob("*.v"))}


def bench(accelerator: str) -> str:
    """Verilog of the module ``bench``: the top module of `accelerator` with a register before every input but the
    clock. See sim/harness.cpp for why."""
    body = re.search(r"^module accelerator\(.*?^endmodule", accelerator, re.DOTALL | re.MULTILINE)
    assert body is not None
    ports = re.findall(r"^  (input|output) (\[\d+:0\] )?(\w+);", body[0], re.MULTILINE)
    inputs = [(width, name) for way, width, name in ports if way == "input" and name != "clk"]
    lines = ["module bench(", ",\n".join(f"  {way} wire {width}{name}" for way, width, name in ports), ");"]
    lines += [f"  reg {width}{name}_q;" for width, name in inputs]
    lines += ["  always @(posedge clk) begin", *(f"    {name}_q <= {name};" for _, name in inputs), "  end"]
    registered = {name for _, name in inputs}
    connected = ",\n".join(f"    .{name}({name}{'_q' if name in registered else ''})" for _, _, name in ports)
    return "\n".join([*lines, "  accelerator accelerator(", connected, "  );", "endmodule", ""])


def build(config: Config, *, waveform: bool = False,
          say: Callable[[str], None] = lambda message: None) -> Path:
    """The shared library of a configuration; compiled if the cache has none for these very sources."""
    here, texts = Path(__file__).parent, sources(config)
    flags = [*verilated.SHARED_COLUMNS, *(["--trace-vcd"] if waveform else [])]
    prefixes = verilog.axi_prefixes(config)
    defines = [f"-DDATA_BITS={config.bus.data_bits}", f"-DPORTS={len(prefixes)}", f"-DFIRST_PORT={prefixes[0]}",
               "-DEACH_PORT(DO)=" + " ".join(f"DO({prefix}, {i})" for i, prefix in enumerate(prefixes))]
    defines += ["-DWITH_TRACE"] if waveform else []
    return verilated.library(
        texts | {"bench.v": bench(texts["accelerator.v"])}, "bench", here / "harness.cpp",
        [here / "bus.hpp", here / "dram.hpp"], flags=flags, defines=defines,
        say=lambda: say(f"compiling the RTL of {config.name} with Verilator (once per hardware)"))


class RtlMachine:
    """A Verilated accelerator with its DRAM.

    Parameters
    ----------
    config : Config
    waveform : bool
        Compile with support for waveforms (slower).
    say : callable
        Told when something takes long.

    Attributes
    ----------
    memory : uint8[dram.size]
        DRAM; write to it before a run, read it after (or during) one.
    """

    def __init__(self, config: Config, *, waveform: bool = False,
                 say: Callable[[str], None] = lambda message: None):
        self.config, self.waveform = config, waveform
        self._library = ctypes.CDLL(str(build(config, waveform=waveform, say=say)))
        self._declare()
        self.memory = np.zeros(config.dram.size, np.uint8)
        self._machine = self._library.machine_new(self.memory.ctypes.data_as(ctypes.c_void_p), config.dram.size)
        self.set_dram(config)

    def _declare(self) -> None:
        c, pointer = self._library, ctypes.c_void_p
        c.machine_new.restype, c.machine_new.argtypes = pointer, [pointer, ctypes.c_uint64]
        c.machine_free.argtypes = [pointer]
        c.machine_dram.argtypes = [pointer, ctypes.c_int64, pointer]
        c.machine_dram_counters.argtypes = [pointer, ctypes.c_int64, pointer]
        c.machine_stalls.argtypes = [pointer, ctypes.c_double, ctypes.c_uint64]
        c.machine_write.argtypes = [pointer, ctypes.c_uint32, ctypes.c_uint32]
        c.machine_read.argtypes, c.machine_read.restype = [pointer, ctypes.c_uint32], ctypes.c_uint32
        c.machine_lockstep.argtypes, c.machine_lockstep.restype = [pointer], ctypes.c_int
        c.machine_reset.argtypes = c.machine_wave_end.argtypes = [pointer]
        c.machine_start.argtypes = [pointer, ctypes.c_uint32, ctypes.c_int]
        c.machine_run.argtypes = [pointer, ctypes.c_uint64, ctypes.c_double, ctypes.POINTER(ctypes.c_int)]
        c.machine_run.restype = ctypes.c_uint64
        c.machine_events.argtypes, c.machine_events.restype = [pointer, pointer], ctypes.c_uint64
        c.machine_wave.argtypes = [pointer, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64]
        c.machine_wave.restype = ctypes.c_int

    def __del__(self) -> None:
        if getattr(self, "_machine", None):
            self._library.machine_free(self._machine)
            self._machine = None

    def set_dram(self, config: Config) -> None:
        """Another timing of the memory, `config.dram` at `config.clock_mhz`, from the next program on.

        Raises
        ------
        DramError
            There is no such device.
        """
        device = dram.of_config(config)
        self._library.machine_dram(self._machine, config.dram.latency, device and ctypes.byref(device))

    def read(self, register: int) -> int:
        return self._library.machine_read(self._machine, register)

    def write(self, register: int, value: int) -> None:
        self._library.machine_write(self._machine, register, value & 0xFFFFFFFF)

    def start(self) -> None:
        """Start the program that the registers name."""
        self._library.machine_start(self._machine, Csr.CONTROL, 0)

    def advance(self, cycles: int) -> bool:
        """Let `cycles` pass, fewer if the program ends; whether it has."""
        ended, left = ctypes.c_int(), cycles
        while left > 0 and not ended:
            left -= self._library.machine_run(self._machine, left, _SLICE, ctypes.byref(ended))
        return bool(ended)

    def run(self, program: Program, arguments: tuple[int, ...] = (), *, max_cycles: int = 1 << 40,
            progress: Callable[[int], None] = lambda cycles: None, stalls: float = 0.0, seed: int = 0,
            record: bool = False, wave: tuple[Path, int, int] | None = None) -> RunResult:
        """Place the program in DRAM, start it and run it to its end.

        Parameters
        ----------
        arguments : up to 4 ints, presets of registers 1 to 4
        progress : called with the cycles so far, several times a second
        stalls : probability with which every bus channel hesitates in a cycle
        record : keep start and end of every instruction
        wave : VCD file, first cycle to write and the one to stop before

        Raises
        ------
        ProgramError
            The program is for other hardware, or does not fit the memory.
        RtlError
            The accelerator reported an error, or did not end within `max_cycles`.
        """
        program.check_hardware(self.config.hardware_hash(), self.config.name)
        program.place(self.memory)
        library, machine = self._library, self._machine
        library.machine_stalls(machine, stalls, seed)
        address = program.symbols["program"].address
        self.write(Csr.PROGRAM_LOW, address)
        self.write(Csr.PROGRAM_HIGH, address >> 32)
        self.write(Csr.PROGRAM_LENGTH, len(program.instructions))
        for i in range(ARGUMENTS):
            self.write(Csr.ARGUMENT1 + 4 * i, arguments[i] if i < len(arguments) else 0)
        if wave:
            path, first, last = wave
            if not library.machine_wave(machine, str(path).encode(), first, last):
                raise RtlError(f"cannot write waveforms to {path}" if self.waveform else
                               "this build has no waveforms: use RtlMachine(config, waveform=True)")
        library.machine_start(machine, Csr.CONTROL, record)
        try:
            self._to_the_end(max_cycles, progress)
        except BaseException:
            library.machine_reset(machine)
            raise
        finally:
            library.machine_wave_end(machine)
        status = self.read(Csr.STATUS)
        error = ErrorCode(status >> 4 & 15)
        if error:
            raise RtlError(f"the program ended with {error.name}, exit code {status >> 8 & 255}; "
                           f"{self._where()}")
        if not library.machine_lockstep(machine):
            raise RtlError("the AXI ports did not do the same in every cycle")
        cycles = self.read(Csr.CYCLES_LOW) | self.read(Csr.CYCLES_HIGH) << 32
        events = np.zeros(library.machine_events(machine, None), EVENT)
        if record:
            library.machine_events(machine, events.ctypes.data_as(ctypes.c_void_p))
        counters = dram.empty_counters()
        library.machine_dram_counters(machine, cycles, counters)
        return RunResult(cycles, self._counters(Csr.BUSY), self._counters(Csr.ENDED), dram.counters_of(counters),
                         events)

    def _to_the_end(self, max_cycles: int, progress: Callable[[int], None]) -> None:
        done, ended = 0, ctypes.c_int()
        while not ended:
            if done >= max_cycles:
                raise RtlError(f"no end after {max_cycles} cycles; {self._where()}")
            done += self._library.machine_run(self._machine, max_cycles - done, _SLICE, ctypes.byref(ended))
            progress(done)

    def _counters(self, base: int) -> dict[str, int]:
        return {unit.name: self.read(base + 4 * unit) for unit in Unit}

    def _where(self) -> str:
        return "instructions ended: " + ", ".join(f"{k} {v}" for k, v in self._counters(Csr.ENDED).items())


class Mmio:
    """Control registers of an `RtlMachine` as `pynq.MMIO` has them, for `fpga.driver`: time passes when the host looks
    at STATUS."""

    def __init__(self, machine: RtlMachine, cycles: int = 20000):
        self._machine, self._cycles, self._running = machine, cycles, False

    def read(self, offset: int) -> int:
        if offset == Csr.STATUS and self._running:
            self._running = not self._machine.advance(self._cycles)
        return self._machine.read(offset)

    def write(self, offset: int, value: int) -> None:
        if offset == Csr.CONTROL and value & 1:
            self._machine.start()
            self._running = True
        else:
            self._machine.write(offset, value)
