"""The IP (`wordline gen --target`) in Verilator, as a host sees it: a window of control registers, and a buffer."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wordline.rtl.isa import Csr
from wordline.sim import verilated


class IpMachine:
    """A Verilated IP with a memory at each of its AXI ports; nothing goes in or out but through AXI.

    For `fpga.driver` it is both sides of a board: ``read`` and ``write`` are those of `pynq.MMIO`, `buffer` is what
    `pynq.allocate` gives. Time passes while the host accesses registers, and `cycles` more when it looks at STATUS of
    a program that has not ended.

    Parameters
    ----------
    text, top : the flat Verilog of `fpga.ip.flat_verilog` and the name of its top module
    ports, port_bits : AXI4 masters ``m_axi_gmem0`` and so on, and the width of each
    size : bytes of the buffer
    base : its physical address
    latency : cycles from a read's address to its first beat

    Attributes
    ----------
    buffer : uint8[size]
    """

    def __init__(self, text: str, top: str, *, ports: int, port_bits: int, size: int, base: int = 0,
                 latency: int = 20, cycles: int = 20000, say: Callable[[str], None] = lambda message: None):
        here = Path(__file__).parent
        each = " ".join(f"DO(m_axi_gmem{i}_,{i})" for i in range(ports))
        library = verilated.library(
            {f"{top}.v": text}, top, here / "ip_harness.cpp", [here / "bus.hpp", here / "dram.hpp"],
            flags=verilated.SHARED_COLUMNS,
            defines=[f"-DTOP=V{top}", f'-DTOP_HEADER="V{top}.h"', f"-DBEAT={port_bits // 8}",
                     f"-DEACH_PORT(DO)={each}"],
            say=lambda: say(f"compiling {top} with Verilator (once per hardware)"))
        self._library = c = ctypes.CDLL(str(library))
        pointer = ctypes.c_void_p
        c.ip_new.restype = pointer
        c.ip_new.argtypes = [pointer, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int64]
        c.ip_free.argtypes = c.ip_reset.argtypes = c.ip_sound.argtypes = [pointer]
        c.ip_stalls.argtypes = [pointer, ctypes.c_double, ctypes.c_uint64]
        c.ip_write.argtypes = [pointer, ctypes.c_uint32, ctypes.c_uint32]
        c.ip_read.argtypes, c.ip_read.restype = [pointer, ctypes.c_uint32], ctypes.c_uint32
        c.ip_run.argtypes, c.ip_run.restype = [pointer, ctypes.c_uint64], ctypes.c_int
        self.buffer = np.zeros(size, np.uint8)
        self._cycles, self._running = cycles, False
        self._ip = c.ip_new(self.buffer.ctypes.data_as(pointer), base, size, latency)

    def __del__(self) -> None:
        if getattr(self, "_ip", None):
            self._library.ip_free(self._ip)
            self._ip = None

    def read(self, offset: int) -> int:
        if offset == Csr.STATUS and self._running:
            self._running = not self._library.ip_run(self._ip, self._cycles)
        return self._library.ip_read(self._ip, offset)

    def write(self, offset: int, value: int) -> None:
        self._library.ip_write(self._ip, offset, value)
        self._running |= offset == Csr.CONTROL and bool(value & 1)

    def reset(self) -> None:
        """The reset line, whatever is under way."""
        self._running = False
        self._library.ip_reset(self._ip)

    def stalls(self, probability: float, seed: int = 1) -> None:
        """From now on every channel of every port hesitates with this probability in every cycle."""
        self._library.ip_stalls(self._ip, probability, seed)

    @property
    def sound(self) -> bool:
        """Every burst so far has stayed within 4 KB, and every write's last beat has said that it is."""
        return bool(self._library.ip_sound(self._ip))
