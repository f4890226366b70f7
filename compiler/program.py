"""A Program: what the compiler emits and every executor consumes, and its file.

The file is a `safetensors` container: tensor ``instructions`` (uint8[n, 32]), one uint8 tensor a segment
of the initial DRAM image, and metadata with the hardware configuration's hash and the symbols.
The same Program always gives the same bytes.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from wordline.rtl.isa import INSTRUCTION_BYTES

FORMAT = "wordline-program 1"


class ProgramError(ValueError):
    """A program file that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Symbol:
    """A named region of DRAM. `shape` and `dtype` say what is in it, `layout` how it lies there."""

    name: str
    address: int
    size: int
    dtype: str
    shape: tuple[int, ...]
    layout: str = "linear"


@dataclass
class Program:
    """Instructions, initial DRAM image, symbols, and the hash of the hardware they were made for.

    Attributes
    ----------
    hardware : str
        `Config.hardware_hash()` of the accelerator this program runs on.
    instructions : uint8[n, 32]
        One 256-bit little-endian instruction a row.
    segments : dict[int, uint8[...]]
        DRAM address -> bytes of the initial image; the rest of DRAM is zero.
    symbols : dict[str, Symbol]
        Named regions; executors use ``program`` (where instructions are loaded from), ``tokens``
        (int32 token ids), ``logits`` (float32, one row per generated token).
    info : dict[str, object]
        What made it: model, datatypes, lengths. Plain JSON data.
    """

    hardware: str
    instructions: np.ndarray
    segments: dict[int, np.ndarray] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    info: dict[str, object] = field(default_factory=dict)

    @property
    def memory_size(self) -> int:
        """Bytes of DRAM, from address 0, that the program uses."""
        return max((s.address + s.size for s in self.symbols.values()), default=0)

    def written(self) -> list[tuple[int, int]]:
        """Addresses, first and one behind the last, of what a run or its host writes: the tokens, and every region
        that has no initial contents (logits, caches, states)."""
        given = {self.symbols["program"].address, *self.segments} - {self.symbols["tokens"].address}
        return [(s.address, s.address + s.size) for s in self.symbols.values() if s.address not in given]

    def place(self, memory: np.ndarray) -> None:
        """Write instructions and image into ``memory`` (uint8[size])."""
        if self.memory_size > len(memory):
            raise ProgramError(
                f"the program needs {self.memory_size} bytes of DRAM, the configuration has "
                f"{len(memory)}: raise dram.size, or shorten the context")
        for address, data in self.segments.items():
            memory[address : address + len(data)] = data
        start = self.symbols["program"].address
        memory[start : start + self.instructions.size] = self.instructions.reshape(-1)

    def to_bytes(self) -> bytes:
        tensors = {"instructions": np.ascontiguousarray(self.instructions, np.uint8)}
        tensors |= {f"image@{address:#014x}": np.ascontiguousarray(data, np.uint8)
                    for address, data in sorted(self.segments.items())}
        symbols = [asdict(self.symbols[name]) for name in sorted(self.symbols)]
        header = {"hardware": self.hardware, "symbols": symbols, "info": self.info}
        return save(tensors, {"wordline": json.dumps({"format": FORMAT} | header, sort_keys=True)})

    def save(self, path: str | Path) -> None:
        """Write the file; an interrupted write leaves no half file under the final name."""
        path = Path(path)
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(self.to_bytes())
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Program":
        """Read a program file.

        Raises
        ------
        ProgramError
            The file is missing, truncated, not a program, or of another format version.
        """
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ProgramError(f"{path}: not a readable program file: {error}") from None
        try:
            header = json.loads(metadata["wordline"])
        except (KeyError, json.JSONDecodeError):
            raise ProgramError(f"{path}: a safetensors file, but not a Wordline program") from None
        if header["format"] != FORMAT:
            raise ProgramError(f"{path}: format {header['format']!r}, this version reads {FORMAT!r}")
        instructions = tensors.pop("instructions")
        if instructions.ndim != 2 or instructions.shape[1] != INSTRUCTION_BYTES:
            raise ProgramError(f"{path}: instructions have shape {instructions.shape}, "
                               f"not [n, {INSTRUCTION_BYTES}]")
        segments = {int(name.partition("@")[2], 16): data for name, data in sorted(tensors.items())}
        symbols = {s["name"]: Symbol(**(s | {"shape": tuple(s["shape"])})) for s in header["symbols"]}
        return cls(header["hardware"], instructions, segments, symbols, header["info"])

    def check_hardware(self, hardware: str, name: str) -> None:
        """Refuse to run on a configuration the program was not compiled for."""
        if hardware != self.hardware:
            raise ProgramError(
                f"the program was compiled for hardware {self.hardware}, configuration {name!r} is "
                f"{hardware}: compile again with this configuration")
