"""Boards that are given a bitstream: pins from `amaranth-boards`, a clock, and the top."""

from dataclasses import dataclass
from typing import Any

from amaranth.build.run import BuildPlan
from amaranth.hdl import ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Component

from wordline.fpga.memories import small_to_luts

BAUD = 115200


@dataclass(frozen=True)
class Board:
    """A board and what it is built from.

    Attributes
    ----------
    config : str, name of the shipped configuration
    context : int, longest sequence that fits with the embedded model
    clock_mhz : float, that the phase-locked loop makes of the board's
    seed : int, of place and route; one that routes
    lut_words : int, memories of the accelerator with so many words or fewer are LUT RAM: block RAM is the model's
    """

    name: str
    title: str
    config: str
    context: int
    clock_mhz: float
    seed: int
    lut_words: int

    @property
    def divisor(self) -> int:
        """Clock cycles per bit of the serial port."""
        return round(self.clock_mhz * 1e6 / BAUD)

    def platform(self) -> Any:
        """Amaranth's description of the board; raises ImportError without `amaranth-boards`."""
        from amaranth_boards.ulx3s import ULX3S_85F_Platform

        return ULX3S_85F_Platform(toolchain="Trellis")


BOARDS = {board.name: board for board in (
    Board("ulx3s", "Radiona ULX3S-85F", "ulx3s_uart", 96, 50.0, 2, 256),
)}


class Ulx3sClock(Component):
    """Clock domain ``sync`` of 50 MHz out of the board's 25: the ECP5's PLL at 600 MHz, divided by 12 (Lattice
    FPGA-TN-02200). Reset until it has locked, and while the button at R1 is pressed."""

    def __init__(self):
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clock = clock = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        m.submodules.button = button = io.Buffer("i", platform.request("button_fire", 0, dir="-"))
        out, locked = Signal(), Signal()
        m.submodules.pll = Instance(
            "EHXPLLL", p_CLKI_DIV=1, p_CLKFB_DIV=2, p_CLKOP_DIV=12, p_CLKOP_ENABLE="ENABLED", p_CLKOP_CPHASE=11,
            p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP", p_PLLRST_ENA="DISABLED", p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
            a_FREQUENCY_PIN_CLKI="25", a_FREQUENCY_PIN_CLKOP="50", a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
            i_CLKI=clock.i, i_CLKFB=out, o_CLKOP=out, o_LOCK=locked,
            i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(1),
            i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0))
        platform.add_clock_constraint(out, 50e6)
        m.d.comb += ClockSignal().eq(out)
        m.submodules.reset = ResetSynchronizer(~locked | button.i)
        return m


class Ulx3sTop(Component):
    """The board's top: clock, pins, and a `UartTop`; LED 0 is lit while a program runs."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.clocks = Ulx3sClock()
        m.submodules.inner = inner = self.inner
        pins = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        m.d.comb += [inner.rx.eq(rx.i), tx.o.eq(inner.tx), led.o.eq(inner.running & ~ResetSignal())]
        return m


def plan(board: Board, inner: Any, sources: dict[str, str]) -> BuildPlan:
    """The files of a build: Verilog of the accelerator, RTLIL and Verilog of the top, pins.

    No tool is called; Amaranth's own scripts are in it too, for whoever wants to build by hand.
    """
    platform = board.platform()
    for name, text in sorted(small_to_luts(sources, board.lut_words).items()):
        platform.add_file(name, text)
    return platform.prepare(Ulx3sTop(inner), "top", debug_verilog=True, synth_opts="-no-rw-check",
                            nextpnr_opts=f"--seed {board.seed} --router router2 --timing-allow-fail")
