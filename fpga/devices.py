"""What the devices have, each figure with the data sheet it is from."""

from dataclasses import dataclass

from wordline.rtl.config import ConfigError


@dataclass(frozen=True)
class Device:
    """Capacity of one FPGA as a board carries it.

    Attributes
    ----------
    family : str
        "ecp5", or Yosys' name of a Xilinx family: "xc7", "xcup".
    part : str
        The vendor's part number.
    capacity : dict[str, int]
        Xilinx: LUT (6 inputs), FF, DSP, BRAM36, URAM. ECP5: LUT4, FF, DSP (18 x 18), EBR (18 kbit).
    processor : str
        Vivado's name of the processing system that the device has, if any.
    """

    name: str
    board: str
    part: str
    family: str
    capacity: dict[str, int]
    source: str
    processor: str = ""


def _xilinx(lut: int, ff: int, dsp: int, bram36: int, uram: int) -> dict[str, int]:
    return {"LUT": lut, "FF": ff, "DSP": dsp, "BRAM36": bram36, "URAM": uram}


DEVICES = {device.name: device for device in (
    Device("kv260", "AMD Kria KV260", "xck26-sfvc784-2LV-c", "xcup", _xilinx(117120, 234240, 1248, 144, 64),
           "AMD DS987, Kria K26 SOM, programmable logic", "zynq_ultra_ps_e"),
    Device("u280", "AMD Alveo U280", "xcu280-fsvh2892-2L-e", "xcup", _xilinx(1303680, 2607360, 9024, 2016, 960),
           "AMD DS963, Alveo U280 (the whole device, without what a shell takes)"),
    Device("arty-a7", "Digilent Arty A7-100T", "xc7a100tcsg324-1", "xc7", _xilinx(63400, 126800, 240, 135, 0),
           "AMD DS180, 7 series overview, XC7A100T"),
    Device("pynq-z2", "TUL PYNQ-Z2", "xc7z020clg400-1", "xc7", _xilinx(53200, 106400, 220, 140, 0),
           "AMD DS190, Zynq-7000 overview, XC7Z020", "processing_system7"),
    Device("ulx3s", "Radiona ULX3S-85F", "LFE5U-85F-6BG381C", "ecp5",
           {"LUT4": 83640, "FF": 83640, "DSP": 156, "EBR": 208}, "Lattice FPGA-DS-02012, table 1.1"),
)}


def find_device(name: str) -> Device:
    """The device of that name; raises `ConfigError` with the names there are."""
    if name not in DEVICES:
        raise ConfigError(f"no device {name!r}: one of {sorted(DEVICES)}")
    return DEVICES[name]
