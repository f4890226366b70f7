"""Weight datatypes: integer codebooks, how a code is stored, and what goes with a group.

Every weight is ``channel_scale * group_scale * value`` with an integer `value` out of the type's
codebook, so a dot product over a group is exact. BitMoD types (HPCA 2025, arXiv 2411.11745, Table IV)
replace the redundant minus zero by one special value a group, chosen out of four; FP4 is stored
doubled, so that its halves become integers.

A group's scale is a byte: an unsigned integer, or a small float (`scale_values`) in whose units every scale of the
block formats is an integer too:

* NVFP4: E2M1 values, blocks of 16 with an E4M3 scale, which is the byte as it stands; the tensor's float32 scale
  goes to every channel.
* MXFP4 (OCP Microscaling v1.0): E2M1 values, blocks of 32 with a power of two (E8M0). Relative to the row's largest
  scale 18 exponents, 2^0 to 2^-17, have a byte; a block below has scale 0, so its weights are zero. That
  window is part of the datatype here: no integer accumulator spans E8M0's 255 exponents.
* Planes with power-of-two coefficients (ShiftAddLLM, arXiv 2406.05981): a weight is ``sum_k +-2^(e + shift_k)`` over
  two or three planes of signs; shift_0 is 0, and from plane to plane the shift grows by the group's gaps, 0 to 3.
  ``2^e`` is the group's scale, with MXFP4's window.
"""

from dataclasses import dataclass

import numpy as np
from amaranth.hdl import unsigned
from amaranth.lib import enum


class WeightKind(enum.IntEnum, shape=unsigned(4)):
    """How a PE decodes a code. Symmetric and asymmetric integers of a width share a kind."""

    INT8 = 0
    INT6 = 1
    INT4 = 2
    INT3 = 3
    INT2 = 4
    FP4 = 5
    FP3 = 6
    INT7 = 7
    INT5 = 8
    #: Bipolar: code 0 is -1, code 1 is +1 (bipolar-INT, arXiv 2409.17870).
    INT1 = 9
    #: Two and three planes of signs, each with a power of two that the group chooses.
    POW2X2 = 10
    POW2X3 = 11
    #: Bit 0: not zero, bit 1: negative.
    TERNARY = 15


class AuxKind(enum.IntEnum, shape=unsigned(2)):
    """What a group carries besides its scale: nothing, a choice of special value, a zero point, two gaps of two bits
    between the exponents of neighbouring planes."""

    NONE = 0
    SELECT = 1
    ZERO = 2
    GAPS = 3


class ScaleKind(enum.IntEnum, shape=unsigned(2)):
    """What bytes a datatype uses for group scales: unsigned integers; powers of two; E4M3."""

    INTEGER = 0
    POWER = 1
    E4M3 = 2


AUX_BITS = {AuxKind.NONE: 0, AuxKind.SELECT: 2, AuxKind.ZERO: 8, AuxKind.GAPS: 4}

#: Magnitudes by index (the code's low bits), and the four special values, both doubled for FP4.
FP4_MAGNITUDES = (0, 1, 2, 3, 4, 6, 8, 12)
FP4_SPECIAL = (10, -10, 16, -16)
FP3_MAGNITUDES = (0, 1, 2, 4)
FP3_SPECIAL = (3, -3, 6, -6)

#: Two's complement integers and their bits.
INT_BITS = {WeightKind.INT8: 8, WeightKind.INT7: 7, WeightKind.INT6: 6, WeightKind.INT5: 5, WeightKind.INT4: 4,
            WeightKind.INT3: 3, WeightKind.INT2: 2}
_FLOAT_TABLES = {WeightKind.FP4: (FP4_MAGNITUDES, FP4_SPECIAL),
                 WeightKind.FP3: (FP3_MAGNITUDES, FP3_SPECIAL)}
#: Kinds of sign planes with power-of-two coefficients, and their planes.
PLANES = {WeightKind.POW2X2: 2, WeightKind.POW2X3: 3}
KIND_BITS = INT_BITS | {WeightKind.INT1: 1, WeightKind.FP4: 4, WeightKind.FP3: 3, WeightKind.TERNARY: 2} | PLANES

#: Bytes of a float scale that are powers of two, 2^0 to 2^17.
POWER_BYTES = np.array([1, 2, 4, *(8 * e for e in range(1, 16))], np.uint8)


def scale_values(scales: np.ndarray, floating: bool) -> np.ndarray:
    """int64: what bytes of group scales multiply by. A floating one has three bits of mantissa m and four of exponent e
    (E4M3 without a sign, in units of 2^-9): m if e = 0, else ``(8 + m) << (e - 1)``; its top bit is 0."""
    byte = np.asarray(scales).astype(np.int64)
    if not floating:
        return byte
    exponent = byte >> 3 & 15
    return np.where(exponent > 0, 8 + (byte & 7) << np.maximum(exponent - 1, 0), byte & 7)


def selects(kind: WeightKind) -> int:
    """Codebooks among which a group of this kind chooses."""
    return 4 if kind in _FLOAT_TABLES else 4 ** (PLANES[kind] - 1) if kind in PLANES else 1


def decode_table(kind: WeightKind, select: int = 0) -> np.ndarray:
    """int8[2**bits]: the value of every code, as the PE sees it."""
    bits = KIND_BITS[kind]
    codes = np.arange(1 << bits)
    if kind is WeightKind.INT1:
        return np.array([-1, 1], np.int8)
    if kind in INT_BITS:
        return (codes - ((codes >> (bits - 1)) << bits)).astype(np.int8)
    if kind is WeightKind.TERNARY:
        return np.array([0, 1, 0, -1], np.int8)
    if kind in PLANES:
        shifts = np.cumsum([0, *(select >> 2 * i & 3 for i in range(PLANES[kind] - 1))])
        return sum((2 * (codes >> k & 1) - 1) << s for k, s in enumerate(shifts)).astype(np.int8)
    magnitudes, special = _FLOAT_TABLES[kind]
    values = np.concatenate([magnitudes, np.negative(magnitudes)])
    values[1 << (bits - 1)] = special[select]
    return values.astype(np.int8)


def decode_tables(kind: WeightKind) -> np.ndarray:
    """int8[16, 2**bits]: `decode_table` for any four bits of aux; those that mean nothing are repeated."""
    return np.stack([decode_table(kind, s % selects(kind)) for s in range(16)])


def max_value(kind: WeightKind) -> int:
    """Largest magnitude the PE can see for this kind, whatever the code."""
    return max(int(np.abs(decode_table(kind, s).astype(int)).max()) for s in range(selects(kind)))


@dataclass(frozen=True)
class WeightType:
    """A weight datatype.

    Attributes
    ----------
    bits : int
        Bits of a stored code (metadata not included).
    kind : WeightKind
        What the PE decodes.
    aux : AuxKind
        What goes with a group besides its 8-bit scale.
    trits : bool
        Codes are -1, 0 or 1 and lie five to a byte, 1.6 bits each (BitNet b1.58).
    block : int
        Elements of K in a group, if the type says so; 0: the configuration does.
    scales : ScaleKind
        What the byte of a group's scale may be.

    An asymmetric integer q of zero point z, both 0 to ``2**bits - 1``, is stored as ``q - 2**(bits-1)`` and
    ``z - 2**(bits-1)``: their difference is the same, and the PE decodes the symmetric type of that width.
    """

    name: str
    bits: int
    kind: WeightKind
    aux: AuxKind = AuxKind.NONE
    trits: bool = False
    block: int = 0
    scales: ScaleKind = ScaleKind.INTEGER

    def group(self, size: int) -> int:
        """Elements of K in a group (0: the whole row) where the configuration says `size`."""
        return self.block or size

    @property
    def float_scales(self) -> bool:
        """Whether `scale_values` reads the bytes of group scales as small floats."""
        return self.scales is not ScaleKind.INTEGER

    @property
    def max_scale(self) -> int:
        """Largest group scale that a quantiser gives."""
        largest = {ScaleKind.INTEGER: 255, ScaleKind.POWER: POWER_BYTES[-1], ScaleKind.E4M3: 0x7E}[self.scales]
        return int(scale_values(np.array(largest), self.float_scales))

    @property
    def max_abs(self) -> int:
        """Largest magnitude of a weight before its scales, zero point included: bounds accumulators."""
        if self.aux is AuxKind.ZERO:
            return (1 << self.bits) - 1
        return max(int(np.abs(self.codebook(select)[0]).max()) for select in range(selects(self.kind)))

    @property
    def has_zero(self) -> bool:
        """Whether every group can say that a weight is 0."""
        return self.aux is AuxKind.ZERO or bool((decode_tables(self.kind) == 0).any(1).all())

    def decode(self, codes: np.ndarray, aux: np.ndarray | int = 0) -> np.ndarray:
        """int16 values of uint8 codes as the PE sees them: a zero point is still to be subtracted."""
        if self.aux in (AuxKind.SELECT, AuxKind.GAPS):
            return decode_tables(self.kind)[np.asarray(aux, np.intp), codes].astype(np.int16)
        return decode_table(self.kind)[codes].astype(np.int16)

    def values(self, codes: np.ndarray, aux: np.ndarray | int = 0) -> np.ndarray:
        """int16 values of uint8 codes; `aux` (broadcast) is the select or the zero point."""
        values = self.decode(codes, aux)
        return values - np.asarray(aux, np.int16) if self.aux is AuxKind.ZERO else values

    def codebook(self, select: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Values in increasing order and their codes; symmetric integers leave out the lowest code, floats without a
        special value that of minus zero, and of two codes of a value the higher."""
        table = decode_table(self.kind, select).astype(int)
        values, codes = np.unique(table, return_index=True)
        if self.aux is not AuxKind.NONE:
            kept = values >= values.min()
        elif self.kind in _FLOAT_TABLES:
            kept = codes != 1 << (self.bits - 1)
        else:
            kept = values >= -table.max()
        return values[kept], codes[kept].astype(np.uint8)


def _integers() -> list[WeightType]:
    kinds = [(bits, kind) for kind, bits in INT_BITS.items()]
    return [WeightType(f"int{b}", b, kind) for b, kind in kinds] + [
        WeightType(f"int{b}_asym", b, kind, AuxKind.ZERO) for b, kind in kinds]


WEIGHT_TYPES: dict[str, WeightType] = {t.name: t for t in [
    *_integers(),
    WeightType("int1", 1, WeightKind.INT1),
    WeightType("bitmod_fp4", 4, WeightKind.FP4, AuxKind.SELECT),
    WeightType("bitmod_fp3", 3, WeightKind.FP3, AuxKind.SELECT),
    WeightType("ternary", 2, WeightKind.TERNARY, trits=True),
    WeightType("mxfp4", 4, WeightKind.FP4, block=32, scales=ScaleKind.POWER),
    WeightType("nvfp4", 4, WeightKind.FP4, block=16, scales=ScaleKind.E4M3),
    WeightType("pow2x2", 2, WeightKind.POW2X2, AuxKind.GAPS, scales=ScaleKind.POWER),
    WeightType("pow2x3", 3, WeightKind.POW2X3, AuxKind.GAPS, scales=ScaleKind.POWER),
]}


def act_max(bits: int) -> int:
    """Largest activation code of a symmetric integer activation type."""
    return (1 << (bits - 1)) - 1
