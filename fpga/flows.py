"""From Yosys' netlist to a bitstream, for each kind of device: files and options of nextpnr and of the packer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flow:
    """What the tools are told besides the device, in files that Amaranth calls ``top.*``.

    Attributes
    ----------
    synthesis : str, options of Yosys' ``synth_CHIP``
    netlist : str, what Yosys writes
    constraints : tuple[str, ...], options of nextpnr for the pins, and the file that they are in
    routing : tuple[str, ...], options of nextpnr that decide the result
    routed : tuple[str, str], option of nextpnr for its result, and the file
    packing : tuple[str, ...], options of the packer
    products : tuple[str, ...], what it writes; the first is the bitstream
    kinds : dict[str, str], nextpnr's names of what a device has, and ours
    """

    synthesis: str
    netlist: str
    constraints: tuple[str, ...]
    pins: str
    routing: tuple[str, ...]
    routed: tuple[str, str]
    packing: tuple[str, ...]
    products: tuple[str, ...]
    kinds: dict[str, str]


FLOWS = {
    "ecp5": Flow(
        "-no-rw-check", "top.json", ("--lpf", "top.lpf"), "top.lpf",
        # The default router rips up without end where the float units crowd; this one negotiates. The default placer
        # leaves a fifth more wire where nearly all block RAMs are taken.
        ("--placer", "static", "--router", "router2", "--timing-allow-fail"), ("--textcfg", "top.config"),
        ("--input", "top.config", "--bit", "top.bit", "--svf", "top.svf"), ("top.bit", "top.svf"),
        {"TRELLIS_COMB": "LUT4", "TRELLIS_FF": "FF", "MULT18X18D": "DSP", "DP16KD": "EBR"}),
    "ice40": Flow(
        "-dsp", "top.json", ("--pcf", "top.pcf"), "top.pcf", ("--timing-allow-fail",), ("--asc", "top.asc"),
        ("top.asc", "top.bin"), ("top.bin",), {"ICESTORM_LC": "LC", "ICESTORM_DSP": "DSP", "ICESTORM_RAM": "EBR"}),
    "gowin": Flow(
        "", "top.syn.json", ("--vopt", "cst=top.cst"), "top.cst", ("--timing-allow-fail",), ("--write", "top.pnr.json"),
        ("-o", "top.fs", "top.pnr.json"), ("top.fs",), {"LUT4": "LUT4", "DFF": "FF", "BSRAM": "BSRAM"}),
}
