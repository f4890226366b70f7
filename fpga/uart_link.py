"""A computer's side of `fpga.uart_bridge`: registers and memory of an accelerator behind a serial port.

    link = Link(serial.Serial("/dev/ttyUSB0", 1000000, timeout=2))       # pyserial
    driver = Driver(link, LinkBuffer(link))                               # wordline_driver.py
    driver.load("austen.wlp")

Like the driver, a file that needs numpy alone.
"""

import struct
import zlib

import numpy as np

#: Bytes of a frame's data: of what goes wrong no more has to be sent again.
CHUNK = 1024
TRIES = 4


class LinkError(RuntimeError):
    """The other side does not answer, or answers with wrong checksums, again and again."""


def frame(opcode: str, first: int, second: int, data: bytes = b"") -> bytes:
    """A header, and what follows it if there is data."""
    header = struct.pack("<cII", opcode.encode(), first, second)
    packet = header + struct.pack("<I", zlib.crc32(header))
    return packet + data + struct.pack("<I", zlib.crc32(data)) if data else packet


class Link:
    """``read(offset)`` and ``write(offset, value)`` of control registers, as `pynq.MMIO`; `put` and `get` of memory.

    Parameters
    ----------
    port : has ``read(count)`` and ``write(data)``; a read that returns less has timed out
    """

    def __init__(self, port):
        self.port = port

    def read(self, offset: int) -> int:
        return int.from_bytes(self._ask(frame("r", offset, 0), 4), "little")

    def write(self, offset: int, value: int) -> None:
        self._ask(frame("w", offset, value), 0)

    def put(self, address: int, data: bytes) -> None:
        """Bytes to memory, both multiples of 8."""
        for at in range(0, len(data), CHUNK):
            part = data[at : at + CHUNK]
            self._ask(frame("W", address + at, len(part), part), 0)

    def get(self, address: int, size: int) -> bytes:
        return b"".join(self._ask(frame("R", address + at, min(CHUNK, size - at)), min(CHUNK, size - at))
                        for at in range(0, size, CHUNK))

    def _ask(self, packet: bytes, size: int) -> bytes:
        """The data of the answer; asked again if a checksum is wrong or there is none."""
        answer = b""
        for _ in range(TRIES):
            self.port.write(packet)
            answer = self.port.read(1)
            if answer == b"B":
                raise LinkError("a program runs: its memory cannot be reached until it ends")
            if answer != b"K":
                continue
            data = self.port.read(size + 4) if size else b""
            if not size or data[size:] == struct.pack("<I", zlib.crc32(data[:size])):
                return data[:size]
        raise LinkError(f"{TRIES} answers with a wrong checksum" if answer else
                        "no answer from the board: is it configured, and the baud rate right?")


class LinkBuffer:
    """Memory as an array of bytes, for `Driver`: slices are read and written over the link."""

    def __init__(self, link: Link):
        self.link = link

    def __getitem__(self, where: slice) -> np.ndarray:
        first, last = where.start // 8 * 8, -(-where.stop // 8) * 8
        data = np.frombuffer(self.link.get(first, last - first), np.uint8)
        return data[where.start - first : where.stop - first]

    def __setitem__(self, where: slice, value) -> None:
        first, last = where.start // 8 * 8, -(-where.stop // 8) * 8
        new = np.broadcast_to(np.asarray(value, np.uint8), where.stop - where.start)
        old = new if (first, last) == (where.start, where.stop) else np.array(self[first:last])
        if old is not new:
            old[where.start - first : where.stop - first] = new
        self.link.put(first, old.tobytes())
