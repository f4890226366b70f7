"""Boards that are given a bitstream: pins from `amaranth-boards` or from here, a clock, and what the board carries.

A board with room for it carries the accelerator with a model in its block RAM; a smaller one, one PE array that tests
itself. Both are a circuit with a serial port, and nothing here depends on which it is.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.build.run import BuildPlan
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import Component, connect
from amaranth.vendor import GowinPlatform

from wordline.fpga.flows import FLOWS, Flow
from wordline.fpga.memories import small_to_luts
from wordline.fpga.pe_selftest import ArrayTest
from wordline.fpga.sdram_top import SdramPads

BAUD = 115200
#: Where a whole model comes over the serial port.
SDRAM_BAUD = 1_000_000


@dataclass(frozen=True)
class Pll:
    """Of the ECP5, fed back from its output: ``board * feedback / reference``; the oscillator runs at `output` times
    that, which has to lie within 400 to 800 MHz (Lattice FPGA-TN-02200)."""

    reference: int
    feedback: int
    output: int


@dataclass(frozen=True)
class Board:
    """A board and what it is built from.

    Attributes
    ----------
    chip : str, one of `FLOWS`
    platform_class : str, "module:class" of Amaranth's description
    device : tuple[str, ...], options that tell nextpnr the device
    packing : tuple[str, ...], options that tell the packer
    clock : str, the board's oscillator; "" for a domain that the platform makes
    clock_mhz : float, of the core
    pll : Pll | None, between the two
    button : str, one that resets; led : (name, member), one that is lit while something runs
    loader : str, the board's name for openFPGALoader
    seed : int, of place and route
    config : str, a shipped configuration, if there is room for the accelerator
    context : int, longest sequence that fits with the embedded model
    lut_words : int, memories of the accelerator with so many words or fewer are LUT RAM: block RAM is the model's
    array : ArrayTest, what a board without a configuration carries, and others on request
    sdram : bool, the model is in the board's SDRAM and comes over the serial port
    """

    name: str
    title: str
    chip: str
    platform_class: str
    device: tuple[str, ...]
    clock_mhz: float
    loader: str
    array: ArrayTest
    packing: tuple[str, ...] = ()
    clock: str = ""
    pll: Pll | None = None
    button: str = ""
    led: tuple[str, str] = ("led", "")
    seed: int = 1
    config: str = ""
    context: int = 0
    lut_words: int = 0
    sdram: bool = False

    @property
    def flow(self) -> Flow:
        return FLOWS[self.chip]

    @property
    def divisor(self) -> int:
        """Clock cycles per bit of the serial port."""
        return round(self.clock_mhz * 1e6 / self.baud)

    @property
    def baud(self) -> int:
        """Bits per second of the serial port."""
        return SDRAM_BAUD if self.sdram else BAUD

    def platform(self) -> Any:
        """Amaranth's description of the board; raises ImportError without `amaranth-boards`."""
        module, _, name = self.platform_class.partition(":")
        platform = getattr(import_module(module), name)()
        if ("uart", 0) not in platform.resources:
            # OrangeCrab: the pins that are labelled RX and TX, for an adapter of 3.3 V.
            platform.add_resources([_uart("N17", "M18", Attrs(IO_TYPE="LVCMOS33"))])
        return platform


def _uart(rx: str, tx: str, attrs: Attrs) -> Resource:
    from amaranth_boards.resources import UARTResource

    return UARTResource(0, rx=rx, tx=tx, attrs=attrs)


class TangNano20kPlatform(GowinPlatform):
    """Sipeed Tang Nano 20K, which `amaranth-boards` 0.0.21 has not: oscillator, serial port and first LED."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    default_clk = "clk27"
    connectors: list = []
    resources: list = []

    def __init__(self):
        self.resources = [
            Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
            Resource("led", 0, Pins("15", dir="o", invert=True), Attrs(IO_TYPE="LVCMOS33")),
            _uart("70", "69", Attrs(IO_TYPE="LVCMOS33")),
        ]
        super().__init__()


_ARRAY = ArrayTest("mac", 1, 2, 8, 8, ("INT8", "INT4", "FP4"))
_ECP5: dict[str, Any] = {"chip": "ecp5", "config": "ulx3s_uart", "context": 96, "lut_words": 128, "seed": 2,
                         "array": _ARRAY}
_ULX3S = Board(
    "ulx3s", "Radiona ULX3S-85F", platform_class="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    device=("--85k", "--package", "CABGA381", "--speed", "6"), clock="clk25", clock_mhz=50.0,
    pll=Pll(1, 2, 12), button="button_fire", loader="ulx3s", **_ECP5)
BOARDS = {board.name: board for board in (
    _ULX3S,
    replace(_ULX3S, name="ulx3s-sdram", title="Radiona ULX3S-85F, SDRAM", config="ulx3s", context=0, lut_words=0,
            sdram=True),
    Board("orangecrab", "OrangeCrab r0.2-85F",
          platform_class="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
          device=("--85k", "--package", "CSFBGA285", "--speed", "8"), clock="clk", clock_mhz=48.0,
          button="button", led=("rgb_led", "g"), loader="orangeCrab", **_ECP5),
    Board("ecpix5", "LambdaConcept ECPIX-5-85F", platform_class="amaranth_boards.ecpix5:ECPIX585Platform",
          device=("--um5g-85k", "--package", "CABGA554", "--speed", "8"), clock="clk100", clock_mhz=50.0,
          pll=Pll(2, 1, 12), led=("rgb_led", "g"), loader="ecpix5", **_ECP5),
    Board("icebreaker", "1BitSquared iCEBreaker", "ice40", "amaranth_boards.icebreaker:ICEBreakerPlatform",
          ("--up5k", "--package", "sg48"), 12.0, "ice40_generic",
          ArrayTest("mac", 1, 2, 4, 8, ("INT8", "INT4", "FP4")), led=("led_g", "")),
    Board("tangnano9k", "Sipeed Tang Nano 9K", "gowin", "amaranth_boards.tang_nano_9k:TangNano9kPlatform",
          ("--device", "GW1NR-LV9QN88PC6/I5", "--vopt", "family=GW1N-9C"), 27.0, "tangnano9k",
          ArrayTest("bit_serial", 1, 2, 8, 8, ("FP4", "INT4")), packing=("-d", "GW1N-9C")),
    Board("tangnano20k", "Sipeed Tang Nano 20K", "gowin", "wordline.fpga.boards:TangNano20kPlatform",
          ("--device", "GW2AR-LV18QN88C8/I7", "--vopt", "family=GW2A-18C"), 27.0, "tangnano20k",
          ArrayTest("bit_serial", 1, 4, 8, 8, ("FP4", "INT4")), packing=("-d", "GW2A-18C")),
)}


class Ecp5Clock(Component):
    """Clock and reset of domain ``sync``, out of the oscillator, through the PLL if there is one. Reset until it has
    locked, or for 16 cycles, and while the button is pressed."""

    def __init__(self, board: Board):
        self.board = board
        super().__init__({})

    def elaborate(self, platform):
        m, board = Module(), self.board
        m.submodules.clock = clock = io.Buffer("i", platform.request(board.clock, 0, dir="-"))
        core, ready = Signal(name="core_clock"), Signal()
        if board.pll:
            pll, mhz = board.pll, board.clock_mhz
            m.submodules.pll = Instance(
                "EHXPLLL", p_CLKI_DIV=pll.reference, p_CLKFB_DIV=pll.feedback, p_CLKOP_DIV=pll.output,
                p_CLKOP_ENABLE="ENABLED", p_CLKOP_CPHASE=pll.output - 1, p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP",
                p_PLLRST_ENA="DISABLED", p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB",
                p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
                a_FREQUENCY_PIN_CLKI=f"{mhz * pll.reference / pll.feedback:g}", a_FREQUENCY_PIN_CLKOP=f"{mhz:g}",
                a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
                i_CLKI=clock.i, i_CLKFB=core, o_CLKOP=core, o_LOCK=ready,
                i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0), i_PHASESEL1=Const(0), i_PHASEDIR=Const(1),
                i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0))
        else:
            m.domains.early = ClockDomain(reset_less=True, local=True)
            passed = Signal(16)
            m.d.early += passed.eq(Cat(Const(1, 1), passed[:-1]))
            m.d.comb += [core.eq(clock.i), ClockSignal("early").eq(core), ready.eq(passed[-1])]
        m.d.comb += ClockSignal().eq(core)
        pressed: Any = Const(0, 1)
        if board.button:
            m.submodules.button = button = io.Buffer("i", platform.request(board.button, 0, dir="-"))
            pressed = button.i
        m.submodules.reset = ResetSynchronizer(~ready | pressed)
        return m


class BoardTop(Component):
    """The board's top: clock, pins, and a circuit with a serial port and ``running``, for which an LED is lit."""

    def __init__(self, board: Board, inner: Any):
        self.board, self.inner = board, inner
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        if self.board.clock:
            m.domains.sync = ClockDomain()
            m.submodules.clocks = Ecp5Clock(self.board)
        m.submodules.inner = inner = self.inner
        pins = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        name, member = self.board.led
        light = platform.request(name, 0, dir="-")
        m.submodules.led = led = io.Buffer("o", getattr(light, member) if member else light)
        if "sdram" in inner.signature.members:
            m.submodules.sdram = pads = SdramPads(inner.timing)
            connect(m, inner.sdram, pads.pins)
        m.d.comb += [inner.rx.eq(rx.i), tx.o.eq(inner.tx), led.o.eq(inner.running & ~ResetSignal())]
        return m


def plan(board: Board, inner: Any, sources: dict[str, str]) -> BuildPlan:
    """The files of a build: Verilog of the accelerator, RTLIL and Verilog of the top, pins.

    No tool is called; Amaranth's own scripts are in it too, for whoever wants to build by hand.
    """
    platform = board.platform()
    for name, text in sorted(small_to_luts(sources, board.lut_words).items()):
        platform.add_file(name, text)
    flow = board.flow
    return platform.prepare(BoardTop(board, inner), "top", debug_verilog=True, synth_opts=flow.synthesis,
                            nextpnr_opts=" ".join([*flow.routing, "--seed", str(board.seed)]))
