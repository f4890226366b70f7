"""The instruction set: one 256-bit `data.Struct` per unit is encoder, decoder and hardware layout at once.

Bits 0 to 139 are the same in every instruction: the unit, two masks of semaphores, and five operands,
each an immediate plus a sequencer register (register 0 is always zero). The sequencer adds the
register to the immediate before it hands the instruction to a unit, so a unit finds the final
value in the immediate field and ignores the register number. The rest is the unit's own.

Semaphores: there is one counter for every ordered pair of units. An instruction of unit U with
bit P set in ``wait`` starts when counter (P, U) is above zero, and takes one from it; with bit Q set
in ``signal`` it adds one to counter (U, Q) when it has ended, all its writes visible.

docs/isa.md explains every field; it is generated from this file.
"""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, enum

INSTRUCTION_BITS = 256
INSTRUCTION_BYTES = INSTRUCTION_BITS // 8
REGISTER_BITS = 40
REGISTERS = 16
SEMAPHORE_BITS = 8


class Unit(enum.IntEnum, shape=unsigned(3)):
    """Who executes an instruction. The value is also the unit's bit in the masks of semaphores."""

    LOAD = 0
    STREAM = 1
    MATMUL = 2
    VECTOR = 3
    STORE = 4
    CONTROL = 5


UNITS = len(Unit)


class Long(data.Struct):
    """A 40-bit operand: a byte address, or a number."""

    imm: signed(40)
    reg: unsigned(4)


class Short(data.Struct):
    """A 16-bit operand; register and immediate are added modulo 2^16."""

    imm: unsigned(16)
    reg: unsigned(4)


class LoadFormat(enum.IntEnum, shape=unsigned(3)):
    """What a load reads. All become float32 in bank L, except REGISTER and PROGRAM."""

    F32 = 0
    BF16 = 1
    INT8 = 2
    #: One 32-bit word at a 4-byte aligned address, zero-extended into sequencer register ``register``.
    REGISTER = 3
    #: ``count`` instructions into the program memory, from ``dst`` on. Only the boot sequence uses it.
    PROGRAM = 4


class LoadInstruction(data.Struct):
    """DRAM to bank L. ``count`` elements from beat-aligned ``address`` to word ``dst`` of bank L;
    the last word is filled up with zeros."""

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    address: Long
    dst: Short
    count: Short
    unused0: Short
    unused1: Short
    element: LoadFormat
    register: unsigned(4)
    padding: unsigned(109)


class StreamInstruction(data.Struct):
    """DRAM to the weight FIFO: ``runs`` runs of ``beats`` beats, ``stride`` beats from start to start."""

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    address: Long
    runs: Short
    beats: Short
    stride: Short
    unused0: Short
    padding: unsigned(116)


class Aux(enum.IntEnum, shape=unsigned(2)):
    """What accompanies a weight group besides its scale."""

    NONE = 0
    #: Two bits that choose the group's special value (BitMoD).
    SELECT = 1
    #: A signed 8-bit zero point.
    ZERO = 2
    #: Two gaps of two bits between the exponents of the code's planes.
    GAPS = 3


class CodeOrder(enum.IntEnum, shape=unsigned(2)):
    """How the codes of a step lie in its beats."""

    #: Bit planes, the least significant first; bit ``column*lanes + lane`` of each.
    PLANES = 0
    #: Whole codes of 2, 4 or 8 bits, code number ``column*lanes + lane``: what a column multiplies lies together.
    COLUMNS = 1
    #: The same, code number ``lane*cols + column``: what a lane multiplies lies together.
    LANES = 2
    #: Ternary weights, five to a byte (`rtl.trits`), number ``column*lanes + lane`` of a step; a step ends anywhere.
    TRITS = 3


class MatmulInstruction(data.Struct):
    """``Y[rows, tiles*cols] = X[rows, steps*lanes] . W^T`` with W from the weight FIFO, X from the
    activation buffer, Y to bank M. Row r of Y starts at word ``out + r*out_stride``.

    ``y = f32(acc) * row_scale[slot, r] * channel_scale[n]``; without ``channel_scales`` the last
    factor is left out, without ``group_scales`` every group's scale is 1. With ``act_tiles`` every so many
    tiles have activations of their own, ``steps*lanes`` a row, behind those of the tiles before.
    """

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    rows: Long
    act: Short
    tiles: Short
    steps: Short
    out: Short
    #: `wordline.pe.datatypes.WeightKind`, and the bits of a code.
    kind: unsigned(4)
    planes: unsigned(4)
    #: Steps in a group; the last group of a tile may be shorter. 0: the whole row is one group.
    group_steps: unsigned(12)
    #: Groups in a tile: ceil(steps / group_steps), or 1.
    groups: unsigned(16)
    aux: Aux
    channel_scales: unsigned(1)
    group_scales: unsigned(1)
    order: CodeOrder
    slot: unsigned(3)
    out_stride: unsigned(16)
    #: Group scales are small floats (`wordline.pe.datatypes.scale_values`), not integers.
    float_scales: unsigned(1)
    #: Tiles that share activations; 0: all of them.
    act_tiles: unsigned(8)
    #: Groups are missing: behind selects and zero points the header has for each group the step of the row with
    #: which it begins (16 bits). ``steps`` and ``groups`` count what is there; every group is whole, and all tiles
    #: share activations.
    sparse: unsigned(1)
    #: N of N:M sparsity, with M = `array.window`; 0: every weight is there. Behind selects and zero points the
    #: header has for each step and lane which of M words of activations it takes (`rtl.layout.pick_bits`); N steps
    #: serve M words, from ``act`` on, a multiple of M. ``steps`` and ``group_steps`` count what is there, in whole
    #: windows; all tiles share activations, and no group is missing.
    kept: unsigned(5)
    padding: unsigned(40)


class SourceA(enum.IntEnum, shape=unsigned(2)):
    X = 0
    M = 1
    #: Scalar register number ``a``, the same for every element.
    SCALAR = 2
    #: ``immediate``, the same for every element.
    IMMEDIATE = 3


class SourceB(enum.IntEnum, shape=unsigned(2)):
    X = 0
    M = 1
    L = 2


class Factor(enum.IntEnum, shape=unsigned(2)):
    """The second operand of the multiplier or of the adder."""

    NONE = 0
    B = 1
    SCALAR = 2
    IMMEDIATE = 3


class Join(enum.IntEnum, shape=unsigned(1)):
    """What the adder stage does with the product and its second operand."""

    ADD = 0
    MAX = 1


class Function(enum.IntEnum, shape=unsigned(3)):
    NONE = 0
    EXP2 = 1
    RECIP = 2
    RSQRT = 3
    #: Round to nearest even and saturate to a symmetric signed integer of ``bits`` bits.
    INT = 4


class IntBits(enum.IntEnum, shape=unsigned(2)):
    B4 = 0
    B8 = 1
    B16 = 2
    B2 = 3


class Destination(enum.IntEnum, shape=unsigned(3)):
    NONE = 0
    #: Bank X, word ``dst``.
    X = 1
    #: Activation buffer: row ``dst >> 12``, activations ``(dst & 0xfff)*lanes`` on. Takes integers.
    ACT = 2
    #: Bank S, word ``dst``: float32, raw bits, or sign-extended integers.
    S = 3
    #: Row-scale register ``dst`` = slot*16 + row; takes element 0.
    ROW_SCALE = 4
    #: Scalar register ``dst``; takes element 0.
    SCALAR = 5


class Reduction(enum.IntEnum, shape=unsigned(3)):
    """What is gathered of all elements into scalar register ``scalar``. NaN never counts in MAX, ABSMAX
    and ARGMAX; they start from -infinity, 0, and -infinity with index 0."""

    NONE = 0
    SUM = 1
    MAX = 2
    ABSMAX = 3
    #: Largest value into ``scalar``, its index as a raw integer into ``scalar + 1``; the first wins.
    #: Element i of the instruction has index ``b*lanes + i``.
    ARGMAX = 4


SCALARS = 16
#: Row scales: a slot has one for every row that an array can have.
ROW_SCALES = 8 * 16


class VectorInstruction(data.Struct):
    """``d[i] = function(join(a[i] * f, c))`` for ``len`` elements in each of ``outer`` + 1 segments.

    f and c are nothing, b[i], a scalar register or the immediate. Segment k reads and writes at
    ``k*a_stride``, ``k*b_stride``, ``k*dst_stride`` words further on. A segment has
    ``ceil(max(len, pad)/lanes)`` words, of `pad` the low 16 bits; bits 16 to 23 are that many segments more, so that
    a register can say how many. (In the activation buffer: that many, rounded up to a whole
    step of the array.) Elements from ``len`` on are written as zero and are left out of the reduction.
    With neither f, c nor function, bits pass unchanged. A destination in bank X may be the very
    words of a source, but must not overlap a source otherwise.
    """

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    pad: Long
    a: Short
    b: Short
    dst: Short
    len: Short
    a_source: SourceA
    b_source: SourceB
    multiply: Factor
    multiply_scalar: unsigned(4)
    addend: Factor
    addend_scalar: unsigned(4)
    join: Join
    negate_product: unsigned(1)
    negate_addend: unsigned(1)
    function: Function
    bits: IntBits
    destination: Destination
    reduction: Reduction
    scalar: unsigned(4)
    #: The reduction (MAX, ABSMAX, ARGMAX) starts from what ``scalar`` holds.
    keep: unsigned(1)
    outer: unsigned(8)
    a_stride: unsigned(10)
    b_stride: unsigned(10)
    dst_stride: unsigned(10)
    immediate: unsigned(32)
    padding: unsigned(11)


class StoreMode(enum.IntEnum, shape=unsigned(1)):
    #: ``count`` 32-bit elements of bank S to consecutive addresses (any 4-byte aligned ``address``).
    WORDS = 0
    #: ``count`` runs of ``piece`` integers of ``bits`` bits (2, 4 or 8), one behind the other; a run goes to
    #: ``address + run*run_stride``, which its own size divides.
    PACKED = 1


class StoreInstruction(data.Struct):
    """Bank S, from word ``src`` on, to DRAM."""

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    address: Long
    src: Short
    count: Short
    unused0: Short
    unused1: Short
    mode: StoreMode
    bits: unsigned(4)
    piece: unsigned(8)
    run_stride: unsigned(32)
    padding: unsigned(71)


class Operation(enum.IntEnum, shape=unsigned(5)):
    """What a control instruction does; the sequencer executes it. Registers hold 40 bits, signed."""

    #: Nothing but its semaphores.
    SYNC = 0
    #: rd = ra + value
    ADDI = 1
    #: rd = ra + rb
    ADD = 2
    #: rd = ra - rb
    SUB = 3
    #: rd = ra << value, ra >> value (arithmetic)
    SHL = 4
    SHR = 5
    #: rd = ra & value
    ANDI = 6
    #: rd = ra * value, 24 x 16 bits, both unsigned
    MULI = 7
    #: rd = min(ra, rb)
    MIN = 8
    #: To instruction ``target`` if ra == rb, ra != rb, ra < rb, ra >= rb (signed).
    BEQ = 9
    BNE = 10
    BLT = 11
    BGE = 12
    #: The program has ended; every unit must be idle. ``value`` is the exit code, 0 for success.
    END = 13


class ControlInstruction(data.Struct):
    """Executed by the sequencer itself. ``value`` has no register added to it."""

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    value: Long
    target: Short
    unused0: Short
    unused1: Short
    unused2: Short
    operation: Operation
    rd: unsigned(4)
    ra: unsigned(4)
    rb: unsigned(4)
    padding: unsigned(99)


class Instruction(data.Struct):
    """Any instruction, with the operands by position: what the sequencer sees before it knows the unit."""

    unit: Unit
    wait: unsigned(6)
    signal: unsigned(6)
    spare: unsigned(1)
    long: Long
    short: data.ArrayLayout(Short, 4)
    padding: unsigned(116)


INSTRUCTIONS: dict[Unit, type[data.Struct]] = {
    Unit.LOAD: LoadInstruction,
    Unit.STREAM: StreamInstruction,
    Unit.MATMUL: MatmulInstruction,
    Unit.VECTOR: VectorInstruction,
    Unit.STORE: StoreInstruction,
    Unit.CONTROL: ControlInstruction,
}


class ErrorCode(enum.IntEnum, shape=unsigned(4)):
    """Why a program ended; read from the STATUS register."""

    NONE = 0
    BUS_READ = 1
    BUS_WRITE = 2
    ILLEGAL_INSTRUCTION = 3
    SEMAPHORE_OVERFLOW = 4
    PROGRAM_EXIT = 5


class Csr(enum.IntEnum, shape=unsigned(8)):
    """Byte offsets of the AXI4-Lite control registers, 32 bits each."""

    #: Write 1: boot the program and run it.
    CONTROL = 0x00
    #: bit 0 busy, bit 1 done (cleared by the next start), bits 7:4 ErrorCode, 15:8 exit code.
    STATUS = 0x04
    PROGRAM_LOW = 0x08
    PROGRAM_HIGH = 0x0C
    #: Instructions in the program.
    PROGRAM_LENGTH = 0x10
    #: Preset values of registers 1 to 4, 32 bits each.
    ARGUMENT1 = 0x14
    ARGUMENT2 = 0x18
    ARGUMENT3 = 0x1C
    ARGUMENT4 = 0x20
    #: Cycles from start to done, 64 bits.
    CYCLES_LOW = 0x24
    CYCLES_HIGH = 0x28
    #: bit 0: the memory did not answer in time and has been given up (`rtl.axi_guard`).
    FAULT = 0x2C
    #: Cycles without movement on the bus after which it is; 0: never.
    WATCHDOG = 0x30
    #: The configuration's hardware hash, 64 bits.
    HARDWARE_LOW = 0x34
    HARDWARE_HIGH = 0x38
    #: Busy cycles of LOAD, STREAM, MATMUL, VECTOR, STORE, CONTROL since the start, 32 bits each.
    BUSY = 0x40
    #: Instructions ended, in the same order.
    ENDED = 0x60
    #: Where programs' address 0 lies in the machine's memory, a multiple of 4096; for `fpga.axi_top`.
    MEMORY_LOW = 0x78
    MEMORY_HIGH = 0x7C
