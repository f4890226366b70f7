"""Which memories of a design become LUT RAM, block RAM or UltraRAM on a Xilinx device, by their size.

The rule, in this order:

1. At most `SHALLOW` words, or words that are there in the cycle of their address: LUT RAM.
2. Tables, whose first words are not all zero: block RAM or LUTs, as the synthesiser likes.
3. Everything else is block RAM at first. As long as UltraRAM is left, it takes those memories that save the most
   block RAMs for each UltraRAM; those that save fewer than `WORTH` only if block RAM would not suffice otherwise.

The same choice goes as ``ram_style`` into the Verilog for Vivado (`fpga.ip`): what was counted is what is built.
"""

from dataclasses import dataclass

from wordline.fpga.netlist import MemoryShape, Netlist, style_memories

SHALLOW = 64
#: A full UltraRAM (288 kbit) holds as much as eight block RAMs (36 kbit); half full, four.
WORTH = 4
#: Width and depth of a RAMB36 in simple dual-port mode (AMD UG573, table 1-7; UG473, table 1-8).
_RAMB36 = ((72, 512), (36, 1024), (18, 2048), (9, 4096), (4, 8192), (2, 16384), (1, 32768))
_URAM = (72, 4096)


def bram36(width: int, depth: int) -> float:
    """Block RAMs of 36 kbit for a memory with one read and one write port; a half is a RAMB18."""
    def blocks(shapes: tuple[tuple[int, int], ...]) -> int:
        return min(-(-width // w) * -(-depth // d) for w, d in shapes)

    halves = tuple((w, d // 2) for w, d in _RAMB36[1:]) + ((36, 512),)
    return min(blocks(_RAMB36), blocks(halves) / 2)


def uram(width: int, depth: int) -> int:
    """UltraRAMs of 4096 x 72 bits."""
    return -(-width // _URAM[0]) * -(-depth // _URAM[1])


@dataclass(frozen=True)
class Placement:
    """Where each memory goes; keys are (module, memory)."""

    styles: dict[tuple[str, str], str]

    def of(self, module: str) -> dict[str, str]:
        return {memory: style for (owner, memory), style in self.styles.items() if owner == module}


def place(netlist: Netlist, *, urams: int, brams: int) -> Placement:
    """Apply the rule to a design on a device with so many of both."""
    styles: dict[tuple[str, str], str] = {}
    open_: list[tuple[float, tuple[str, str], MemoryShape]] = []
    used = 0.0
    for module in netlist.modules.values():
        for memory in module.memories:
            key = (module.name, memory.name)
            if memory.depth <= SHALLOW or memory.immediate:
                styles[key] = "distributed"
            elif memory.zero:
                styles[key] = "block"
                blocks = bram36(memory.width, memory.depth)
                used += blocks
                open_.append((blocks / uram(memory.width, memory.depth), key, memory))
    for saved, key, memory in sorted(open_, key=lambda item: (-item[0], item[1])):
        need = uram(memory.width, memory.depth)
        if need <= urams and (saved >= WORTH or used > brams):
            styles[key] = "ultra"
            urams -= need
            used -= bram36(memory.width, memory.depth)
    return Placement(styles)


def small_to_luts(texts: dict[str, str], deepest: int) -> dict[str, str]:
    """Verilog in which memories of at most `deepest` words are LUT RAM, tables excepted: for a device whose block RAM
    is wanted for something else."""
    def one(text: str) -> str:
        netlist = Netlist([text], "")
        for module in netlist.modules.values():
            styles = {memory.name: "distributed" for memory in module.memories
                      if memory.zero and memory.depth <= deepest}
            text = text.replace(module.body, style_memories(module.body, styles))
        return text

    return {name: one(text) for name, text in texts.items()}
