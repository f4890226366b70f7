"""Assembler and disassembler: every field of `rtl.isa` by name, in text that goes both ways.

A line is ``UNIT field=value ...``; fields that are zero are left out; an operand with a register is
``imm+rN``; ``wait`` and ``signal`` list units; enumerations are written by name; ``; ...`` is a comment,
``label:`` marks an instruction for the ``target`` of branches. Directives carry the rest of a Program:
``.hardware``, ``.info``, ``.symbol`` and, unless left out, ``.data``.
"""

import base64
import json
import zlib
from dataclasses import asdict
from enum import IntEnum
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data

from wordline.compiler.program import Program, Symbol
from wordline.rtl.isa import INSTRUCTION_BYTES, INSTRUCTIONS, Long, Short, Unit

_MASKS = ("wait", "signal")


class AssemblyError(ValueError):
    """A line that is not an instruction; the message gives its number and what is wrong."""


class _Fields:
    """Bit positions of one instruction's fields, read once from its struct."""

    def __init__(self, struct: type[data.Struct]):
        layout = data.Layout.cast(struct)
        self.fields: dict[str, tuple[int, int, bool, Any]] = {}
        for key, field in layout:
            name = str(key)
            shape = Shape.cast(field.shape)
            self.fields[name] = (field.offset, shape.width, shape.signed, field.shape)


_FIELDS = {unit: _Fields(struct).fields for unit, struct in INSTRUCTIONS.items()}
_OPERANDS = {Long: 40, Short: 16}


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


def fields(word: int) -> tuple[Unit, dict[str, Any]]:
    """The unit and the fields of a 256-bit instruction. Operands are pairs (immediate, register)."""
    try:
        unit = Unit(word & 7)
    except ValueError:
        raise AssemblyError(f"unit {word & 7} does not exist") from None
    result: dict[str, Any] = {}
    for name, (offset, width, _, shape) in _FIELDS[unit].items():
        value = word >> offset & (1 << width) - 1
        if shape in _OPERANDS:
            bits = _OPERANDS[shape]
            imm = value & (1 << bits) - 1
            result[name] = (_signed(imm, bits) if shape is Long else imm, value >> bits)
        elif isinstance(shape, type) and issubclass(shape, IntEnum):
            result[name] = shape(value)
        else:
            result[name] = value
    return unit, result


def encode(unit: Unit, values: dict[str, Any]) -> int:
    """The 256-bit instruction with the given fields; operands are ints or pairs (immediate, register).

    Raises
    ------
    AssemblyError
        A field the unit does not have, or a value that does not fit its field.
    """
    word = int(unit)
    for name, value in values.items():
        if name not in _FIELDS[unit] or name == "unit":
            raise AssemblyError(f"{unit.name} has no field {name!r}")
        offset, width, _, shape = _FIELDS[unit][name]
        if shape in _OPERANDS:
            imm, reg = value if isinstance(value, tuple) else (value, 0)
            bits = _OPERANDS[shape]
            low = -(1 << bits - 1) if shape is Long else 0
            if not low <= imm < 1 << (bits - 1 if shape is Long else bits) or not 0 <= reg < 16:
                raise AssemblyError(f"{unit.name} {name}: {imm} + r{reg} does not fit {bits} bits")
            raw = imm & (1 << bits) - 1 | reg << bits
        else:
            raw = int(value)
            if not 0 <= raw < 1 << width:
                raise AssemblyError(f"{unit.name} {name}: {raw} does not fit {width} bits")
        word |= raw << offset
    return word


def to_array(words: list[int]) -> np.ndarray:
    """Instructions as uint8[n, 32], little endian."""
    raw = b"".join(word.to_bytes(INSTRUCTION_BYTES, "little") for word in words)
    return np.frombuffer(raw, np.uint8).reshape(-1, INSTRUCTION_BYTES).copy()


def to_words(instructions: np.ndarray) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in instructions]


def format_instruction(word: int) -> str:
    """One instruction as text."""
    unit, values = fields(word)
    parts = [unit.name]
    for name, value in values.items():
        if name == "unit":
            continue
        if isinstance(value, tuple):
            imm, reg = value
            if imm or reg:
                parts.append(f"{name}={imm}" + (f"+r{reg}" if reg else ""))
        elif name in _MASKS:
            if value:
                names = [u.name for u in Unit if value >> u & 1]
                parts.append(f"{name}={'|'.join(names)}")
        elif isinstance(value, IntEnum):
            if value:
                parts.append(f"{name}={value.name}")
        elif value:
            parts.append(f"{name}={value:#x}" if name in ("immediate", "padding") else f"{name}={value}")
    return " ".join(parts)


def _parse_value(unit: Unit, name: str, text: str, labels: dict[str, int]) -> Any:
    shape = _FIELDS[unit][name][3]
    if shape in _OPERANDS:
        imm, _, reg = text.partition("+r")
        return labels[imm] if imm in labels else int(imm, 0), int(reg or "0")
    if name in _MASKS:
        return sum(1 << Unit[part] for part in text.split("|"))
    if isinstance(shape, type) and issubclass(shape, IntEnum):
        return shape[text]
    return int(text, 0)


def parse_instruction(line: str, labels: dict[str, int] | None = None) -> int:
    """The instruction a line of text means."""
    name, *parts = line.split()
    if name not in Unit.__members__:
        raise AssemblyError(f"no unit {name!r}; units are {', '.join(Unit.__members__)}")
    unit = Unit[name]
    values: dict[str, Any] = {}
    for part in parts:
        key, separator, text = part.partition("=")
        if not separator or key not in _FIELDS[unit]:
            raise AssemblyError(f"{unit.name} has no field {key!r}")
        try:
            values[key] = _parse_value(unit, key, text, labels or {})
        except (KeyError, ValueError):
            raise AssemblyError(f"{unit.name} {key}: {text!r} is not a value") from None
    return encode(unit, values)


def disassemble(program: Program, *, image: bool = True) -> str:
    """A Program as text; with ``image`` the text holds everything, and assembles to an equal Program."""
    lines = [f".hardware {program.hardware}", f".info {json.dumps(program.info, sort_keys=True)}"]
    lines += [f".symbol {json.dumps(asdict(s), sort_keys=True)}"
              for _, s in sorted(program.symbols.items())]
    lines += [f"{format_instruction(word):<100} ; {i}"
              for i, word in enumerate(to_words(program.instructions))]
    for address, bytes_ in sorted(program.segments.items()) if image else ():
        packed = base64.b85encode(zlib.compress(bytes_.tobytes(), 9)).decode()
        lines.append(f".data {address:#x} {packed}")
    return "\n".join(lines) + "\n"


def assemble(text: str) -> Program:
    """The Program that a text means; the inverse of `disassemble`.

    Raises
    ------
    AssemblyError
        With the number of the line that is wrong.
    """
    program = Program("", to_array([]))
    source: list[tuple[int, str]] = []
    labels: dict[str, int] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        directive, _, rest = raw.partition(" ")
        try:
            if directive == ".hardware":
                program.hardware = rest.strip()
            elif directive == ".info":
                program.info = json.loads(rest)
            elif directive == ".symbol":
                fields_ = json.loads(rest)
                symbol = Symbol(**(fields_ | {"shape": tuple(fields_["shape"])}))
                program.symbols[symbol.name] = symbol
            elif directive == ".data":
                address, packed = rest.split()
                bytes_ = zlib.decompress(base64.b85decode(packed))
                program.segments[int(address, 16)] = np.frombuffer(bytes_, np.uint8).copy()
            elif line := raw.partition(";")[0].strip():
                if line.endswith(":"):
                    labels[line[:-1]] = len(source)
                else:
                    source.append((number, line))
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise AssemblyError(f"line {number}: {error}") from None
    words = []
    for number, line in source:
        try:
            words.append(parse_instruction(line, labels))
        except AssemblyError as error:
            raise AssemblyError(f"line {number}: {error}") from None
    program.instructions = to_array(words)
    return program
