"""Executes a Program in numpy: the specification of what the accelerator does, bit for bit.

Instructions run one after the other in program order; semaphores and time play no part. Everything is read from and
written to the same DRAM image as in hardware, weights unpacked from their bytes included.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from wordline.compiler.asm import fields as decode
from wordline.compiler.asm import to_words
from wordline.compiler.program import Program
from wordline.pe.datatypes import AuxKind, WeightKind
from wordline.rtl import float_ref as ref
from wordline.rtl.config import Config
from wordline.rtl.isa import CodeOrder, LoadFormat, Operation, StoreMode, Unit
from wordline.rtl.layout import TileLayout
from wordline.rtl.matmul_ref import effective_weights, matmul
from wordline.rtl.vector_ref import VectorState, execute

_MASK40 = (1 << 40) - 1


class FunctionalError(RuntimeError):
    """A program that does what no compiled program does (reads beyond DRAM, an exit code)."""


class FunctionalMachine:
    """The accelerator and its DRAM, in numpy.

    Attributes
    ----------
    memory : uint8[dram.size]
    """

    def __init__(self, config: Config):
        self.config = config
        self.memory = np.zeros(config.dram.size, np.uint8)
        self.state = VectorState(config)
        self.ended = dict.fromkeys(Unit, 0)
        self._fifo: list[tuple[int, int, int, int]] = []  # address, runs, beats, stride
        self._weights: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._written_low = config.dram.size
        self._written_high = 0

    def run(self, program: Program, arguments: tuple[int, ...] = (), *,
            progress: Callable[[int], None] = lambda instructions: None) -> int:
        """Place the program in DRAM and execute it; returns the number of instructions executed.

        Raises
        ------
        ProgramError
            The program is for other hardware, or does not fit the memory.
        FunctionalError
            It ends with an exit code other than 0.
        """
        program.check_hardware(self.config.hardware_hash(), self.config.name)
        program.place(self.memory)
        code = [decode(word) for word in to_words(program.instructions)]
        registers = [0] * 16
        registers[1 : 1 + len(arguments)] = arguments
        self._registers = registers
        pc = executed = 0
        handlers = {Unit.LOAD: self._load, Unit.STREAM: self._stream, Unit.MATMUL: self._matmul,
                    Unit.VECTOR: self._vector, Unit.STORE: self._store}
        while True:
            unit, raw = code[pc]
            executed += 1
            self.ended[unit] += 1
            if executed % 2000 == 0:
                progress(executed)
            if unit is Unit.CONTROL:
                next_pc = self._control(raw, pc)
                if next_pc is None:
                    return executed
                pc = next_pc
                continue
            resolved = {name: self._resolve(name, value) if isinstance(value, tuple) else value
                        for name, value in raw.items()}
            handlers[unit](resolved)
            pc += 1

    def _resolve(self, name: str, value: tuple[int, int]) -> int:
        imm, number = value
        total = imm + self._registers[number] if number else imm
        # The two long operands are addresses, rows and pad; every other is 16 bits.
        return total if name in ("address", "rows", "pad") else total & 0xFFFF

    def _control(self, f: dict[str, Any], pc: int) -> int | None:
        r = self._registers
        a, b, value = r[f["ra"]], r[f["rb"]], f["value"][0]
        operation = f["operation"]
        if operation == Operation.END:
            if value & 255:
                raise FunctionalError(f"the program ended with exit code {value & 255}")
            return None
        jumps = {Operation.BEQ: a == b, Operation.BNE: a != b, Operation.BLT: a < b, Operation.BGE: a >= b}
        if operation in jumps:
            return f["target"][0] if jumps[operation] else pc + 1
        if operation != Operation.SYNC:
            result = {
                Operation.ADDI: a + value, Operation.ADD: a + b, Operation.SUB: a - b,
                Operation.SHL: a << (value & 31), Operation.SHR: a >> (value & 31),
                Operation.ANDI: a & value, Operation.MULI: (a & 0xFFFFFF) * (value & 0xFFFF),
                Operation.MIN: min(a, b),
            }[operation] & _MASK40
            if f["rd"]:
                r[f["rd"]] = result - (1 << 40) if result >> 39 else result
        return pc + 1

    def _bytes(self, address: int, size: int) -> np.ndarray:
        if not 0 <= address <= self.memory.size - size:
            raise FunctionalError(f"read of {size} bytes at {address:#x}, beyond DRAM")
        return self.memory[address : address + size]

    def _load(self, f: dict[str, Any]) -> None:
        address, count, element = f["address"], f["count"], f["element"]
        if element == LoadFormat.REGISTER:
            if f["register"]:
                self._registers[f["register"]] = int(self._bytes(address & ~3, 4).view("<u4")[0])
            return
        if element == LoadFormat.F32:
            values = self._bytes(address, 4 * count).view("<u4")
        elif element == LoadFormat.BF16:
            values = self._bytes(address, 2 * count).view("<u2").astype(np.uint32) << 16
        else:
            values = ref.to_bits(self._bytes(address, count).view(np.int8).astype(np.float32))
        lanes = self.config.vector.lanes
        bank = self.state.l
        padded = np.zeros(-(-count // lanes) * lanes, np.uint32)
        padded[:count] = values
        start = f["dst"] * lanes
        bank[(start + np.arange(padded.size)) & (bank.size - 1)] = padded

    def _stream(self, f: dict[str, Any]) -> None:
        if f["runs"] and f["beats"]:
            self._fifo.append((f["address"], f["runs"], f["beats"], f["stride"]))

    def _take(self, runs: int, beats: int) -> tuple[tuple[int, ...], np.ndarray]:
        """The next tiles of the weight stream: where they lie, and their bytes."""
        beat = self.config.beat_bytes
        address, have, length, stride = self._fifo.pop(0)
        if length == stride:  # one long run
            total, need = have * length, runs * beats
            if total > need:
                self._fifo.insert(0, (address + need * beat, 1, total - need, total - need))
            elif total < need:
                raise FunctionalError("a matmul takes more beats than were streamed for it")
            return (address, need), self._bytes(address, need * beat)
        n, rest = divmod(runs * beats, length)
        if rest or n > have:
            raise FunctionalError(f"a matmul takes {runs} x {beats} beats, {have} x {length} were streamed")
        if n < have:
            self._fifo.insert(0, (address + n * stride * beat, have - n, length, stride))
        parts = [self._bytes(address + i * stride * beat, length * beat) for i in range(n)]
        return (address, n, length, stride), np.concatenate(parts)

    def _matmul(self, f: dict[str, Any]) -> None:
        rows, tiles, steps = f["rows"] & 31, f["tiles"], f["steps"]
        if not (rows and tiles and steps):
            return
        a, state = self.config.array, self.state
        layout = TileLayout(
            cols=a.cols, lanes=a.lanes, bus_bits=self.config.bus.data_bits, planes=f["planes"], steps=steps,
            group_steps=f["group_steps"], aux=AuxKind(f["aux"]), channel_scales=bool(f["channel_scales"]),
            group_scales=bool(f["group_scales"]), float_scales=bool(f["float_scales"]),
            sparse=bool(f["sparse"]), window=a.window, kept=f["kept"], order=CodeOrder(f["order"]))
        where, raw = self._take(tiles, layout.tile_beats)
        weights, channel = self._unpacked(where, raw, layout, WeightKind(f["kind"]))
        scale = ref.from_bits(state.row_scale[f["slot"] * 16 : f["slot"] * 16 + rows])
        k, shared = steps * a.lanes, (f["act_tiles"] or tiles) * a.cols  # channels that share activations
        if layout.kept and f["act"] % layout.window:
            raise FunctionalError(f"act = {f['act']} of an N:M matmul is no multiple of array.window = {layout.window}")
        if layout.sparse or layout.kept:
            k, shared = weights.shape[1], tiles * a.cols
        parts = []
        for i in range(-(-tiles * a.cols // shared)):
            start, n = f["act"] * a.lanes + i * k, slice(i * shared, (i + 1) * shared)
            parts.append(matmul(state.act[:rows, start : start + k], weights[n], scale,
                                channel[n] if layout.channel_scales else None))
        y = np.concatenate(parts, 1)
        lanes = self.config.vector.lanes
        for r in range(rows):
            first = (f["out"] + r * f["out_stride"]) * lanes
            index = (first + np.arange(y.shape[1])) & (state.m.size - 1)
            state.m[index] = ref.to_bits(y[r])

    def _unpacked(self, where: tuple[int, ...], raw: np.ndarray, layout: TileLayout,
                  kind: WeightKind) -> tuple[np.ndarray, np.ndarray]:
        """Unpacked weights, kept while no store has come near them."""
        end = where[0] + raw.size
        if where[0] < self._written_high and end > self._written_low:
            return effective_weights(raw, layout, kind)
        if where not in self._weights:
            self._weights[where] = effective_weights(raw, layout, kind)
        return self._weights[where]

    def _vector(self, f: dict[str, Any]) -> None:
        execute(f, self.state)

    def _store(self, f: dict[str, Any]) -> None:
        lanes, address, count = self.config.vector.lanes, f["address"], f["count"]
        start = f["src"] * lanes
        bank = self.state.s
        if f["mode"] == StoreMode.WORDS:
            values = bank[(start + np.arange(count)) & (bank.size - 1)]
            self._write(address, values.astype("<u4").view(np.uint8))
            return
        piece = f["piece"]
        values = bank[(start + np.arange(count * piece)) & (bank.size - 1)].reshape(count, piece)
        for run in range(count):
            bits = values[run][:, None] >> np.arange(f["bits"], dtype=np.uint32) & 1
            self._write(address + run * f["run_stride"], np.packbits(bits.astype(np.uint8), bitorder="little"))

    def _write(self, address: int, data: np.ndarray) -> None:
        if not 0 <= address <= self.memory.size - data.size:
            raise FunctionalError(f"write of {data.size} bytes at {address:#x}, beyond DRAM")
        self.memory[address : address + data.size] = data
        self._written_low = min(self._written_low, address)
        self._written_high = max(self._written_high, address + data.size)
