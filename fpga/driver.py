"""Host software of a Wordline accelerator, for PYNQ and the Verilated RTL alike: one file that needs numpy alone.

    driver = Driver(mmio, buffer, base=buffer.physical_address)      # pynq.MMIO, pynq.allocate((size,), "u1")
    driver.load("austen.wlp")
    print(driver.generate([41, 84, 305], tokens=20))

`mmio` has ``read(offset)`` and ``write(offset, value)``; `buffer` is a uint8 array that the accelerator sees at `base`.
"""

import json
import time
from dataclasses import dataclass, field

import numpy as np

# Byte offsets of the control registers, as rtl/isa.py has them (a test compares).
REGISTERS = {
    "CONTROL": 0x00, "STATUS": 0x04, "PROGRAM_LOW": 0x08, "PROGRAM_HIGH": 0x0C, "PROGRAM_LENGTH": 0x10,
    "ARGUMENT1": 0x14, "ARGUMENT2": 0x18, "ARGUMENT3": 0x1C, "ARGUMENT4": 0x20, "CYCLES_LOW": 0x24,
    "CYCLES_HIGH": 0x28, "FAULT": 0x2C, "WATCHDOG": 0x30, "HARDWARE_LOW": 0x34, "HARDWARE_HIGH": 0x38,
    "BUSY": 0x40, "ENDED": 0x60, "MEMORY_LOW": 0x78, "MEMORY_HIGH": 0x7C,
}
UNITS = ("LOAD", "STREAM", "MATMUL", "VECTOR", "STORE", "CONTROL")
ERRORS = ("NONE", "BUS_READ", "BUS_WRITE", "ILLEGAL_INSTRUCTION", "SEMAPHORE_OVERFLOW", "PROGRAM_EXIT")


class DriverError(RuntimeError):
    """The accelerator is another one, reported an error, or did not end."""


@dataclass
class Result:
    """What a program took: cycles, and per unit busy cycles and instructions ended."""

    cycles: int
    busy: dict
    ended: dict


@dataclass
class ProgramFile:
    """A program file (`wordline compile`): instructions, image, symbols."""

    hardware: str
    instructions: np.ndarray
    segments: dict = field(default_factory=dict)
    symbols: dict = field(default_factory=dict)
    info: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> "ProgramFile":
        """From disk: a safetensors container, whose metadata is JSON."""
        with open(path, "rb") as file:
            raw = file.read()
        size = int.from_bytes(raw[:8], "little")
        tensors = json.loads(raw[8 : 8 + size])
        header = json.loads(tensors.pop("__metadata__")["wordline"])
        data = {name: np.frombuffer(raw[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]], np.uint8)
                for name, t in tensors.items()}
        instructions = data.pop("instructions")
        segments = {int(name.partition("@")[2], 16): image for name, image in data.items()}
        symbols = {symbol["name"]: symbol for symbol in header["symbols"]}
        return cls(header["hardware"], instructions, segments, symbols, header["info"])


class Driver:
    """One accelerator and its memory.

    Raises `DriverError` where something is wrong, with what the registers say.
    """

    def __init__(self, mmio, buffer, base: int = 0):
        if base % 4096:
            raise DriverError(f"the buffer begins at {base:#x}, which is not a multiple of 4096")
        self.mmio, self.buffer, self.base = mmio, buffer, base
        self.program = None
        self.write("MEMORY_LOW", base & 0xFFFFFFFF)
        self.write("MEMORY_HIGH", base >> 32)

    def read(self, register: str, index: int = 0) -> int:
        return self.mmio.read(REGISTERS[register] + 4 * index)

    def write(self, register: str, value: int) -> None:
        self.mmio.write(REGISTERS[register], value & 0xFFFFFFFF)

    @property
    def hardware(self) -> str:
        """The hash of the hardware's configuration, 16 hexadecimal digits."""
        return f"{self.read('HARDWARE_HIGH'):08x}{self.read('HARDWARE_LOW'):08x}"

    def load(self, program) -> None:
        """Place a program (a file's path, or a `ProgramFile`) in memory."""
        if isinstance(program, str):
            program = ProgramFile.read(program)
        if program.hardware != self.hardware:
            raise DriverError(f"the program is for hardware {program.hardware}, this is {self.hardware}: "
                              "compile it again with this configuration")
        for address, image in program.segments.items():
            self.buffer[address : address + len(image)] = image
        code = np.asarray(program.instructions).reshape(-1)
        start = self._symbol(program, "program")[0]
        self.buffer[start : start + len(code)] = code
        self._flush()
        self.write("PROGRAM_LOW", start)
        self.write("PROGRAM_HIGH", start >> 32)
        self.write("PROGRAM_LENGTH", len(code) // 32)
        self.program = program

    def run(self, arguments=(), timeout: float = 60.0) -> Result:
        """Start the program and wait for its end."""
        for i in range(4):
            self.write(f"ARGUMENT{i + 1}", arguments[i] if i < len(arguments) else 0)
        self.write("CONTROL", 1)
        until = time.monotonic() + timeout
        status = self.read("STATUS")
        while not status & 2:
            if time.monotonic() > until:
                raise DriverError(f"no end after {timeout} s; instructions ended: {self._counters('ENDED')}")
            status = self.read("STATUS")
        error = status >> 4 & 15
        if error:
            name = ERRORS[error] if error < len(ERRORS) else str(error)
            fault = "; the memory did not answer and was given up" if self.read("FAULT") & 1 else ""
            raise DriverError(f"the program ended with {name}, exit code {status >> 8 & 255}{fault}; "
                              f"instructions ended: {self._counters('ENDED')}")
        cycles = self.read("CYCLES_LOW") | self.read("CYCLES_HIGH") << 32
        return Result(cycles, self._counters("BUSY"), self._counters("ENDED"))

    def generate(self, prompt, tokens: int, stop: int = -1, timeout: float = 60.0) -> list:
        """Token ids that follow `prompt`; `stop` is the id that ends a text, -1 for none."""
        address, size = self._symbol(self.program, "tokens")
        if not prompt or tokens < 1 or len(prompt) + tokens > size // 4:
            raise DriverError(f"{len(prompt)} tokens and {tokens} more do not fit the context of {size // 4 - 1}")
        ids = np.full(size // 4, -1, "<i4")
        ids[: len(prompt)] = prompt
        self.buffer[address : address + size] = ids.view(np.uint8)
        self._flush()
        self.run((len(prompt), len(prompt) + tokens - 1, 0, stop), timeout)
        raw = self.memory(address, size).view("<i4")[len(prompt) : len(prompt) + tokens]
        return [int(i) for i in raw[: int((raw < 0).argmax()) if (raw < 0).any() else len(raw)]]

    def selftest(self, program, expected) -> Result:
        """Run the program of `fpga.selftest` (exported as selftest.wlp and selftest.npy) and compare every bit."""
        self.load(program)
        address, size = self._symbol(self.program, "result")
        self.buffer[address : address + size] = 0
        self._flush()
        result = self.run()
        got, want = self.memory(address, size), np.asarray(expected, "<f4").view(np.uint8)
        if not np.array_equal(got, want):
            wrong = int(np.count_nonzero(got.view("<u4") != want.view("<u4")))
            raise DriverError(f"self-test: {wrong} of {size // 4} results are wrong")
        return result

    def memory(self, address: int, size: int) -> np.ndarray:
        """Bytes that the accelerator may have written."""
        if hasattr(self.buffer, "invalidate"):
            self.buffer.invalidate()
        return np.array(self.buffer[address : address + size])

    def _flush(self) -> None:
        if hasattr(self.buffer, "flush"):
            self.buffer.flush()

    def _counters(self, register: str) -> dict:
        return {unit: self.read(register, i) for i, unit in enumerate(UNITS)}

    @staticmethod
    def _symbol(program, name: str):
        symbol = program.symbols[name]
        return (symbol["address"], symbol["size"]) if isinstance(symbol, dict) else (symbol.address, symbol.size)
