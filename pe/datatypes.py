"""Weight datatypes: integer codebooks, how a code is stored, and what goes with a group.

Every weight is ``channel_scale * group_scale * value`` with an integer `value` out of the type's
codebook, so a dot product over a group is exact. BitMoD types (HPCA 2025, arXiv 2411.11745, Table IV)
replace the redundant minus zero by one special value a group, chosen out of four; FP4 is stored
doubled, so that its halves become integers.
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
    #: Bit 0: not zero, bit 1: negative.
    TERNARY = 15


class AuxKind(enum.IntEnum, shape=unsigned(2)):
    """What a group carries besides its scale: nothing, a choice of special value, a zero point."""

    NONE = 0
    SELECT = 1
    ZERO = 2


AUX_BITS = {AuxKind.NONE: 0, AuxKind.SELECT: 2, AuxKind.ZERO: 8}

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
KIND_BITS = INT_BITS | {WeightKind.INT1: 1, WeightKind.FP4: 4, WeightKind.FP3: 3, WeightKind.TERNARY: 2}


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
    magnitudes, special = _FLOAT_TABLES[kind]
    values = np.concatenate([magnitudes, np.negative(magnitudes)])
    values[1 << (bits - 1)] = special[select]
    return values.astype(np.int8)


def max_value(kind: WeightKind) -> int:
    """Largest magnitude the PE can see for this kind, whatever the code."""
    return max(int(np.abs(decode_table(kind, s).astype(int)).max()) for s in range(4))


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

    An asymmetric integer q of zero point z, both 0 to ``2**bits - 1``, is stored as ``q - 2**(bits-1)`` and
    ``z - 2**(bits-1)``: their difference is the same, and the PE decodes the symmetric type of that width.
    """

    name: str
    bits: int
    kind: WeightKind
    aux: AuxKind = AuxKind.NONE
    trits: bool = False

    @property
    def max_abs(self) -> int:
        """Largest magnitude of a weight before its scales, zero point included: bounds accumulators."""
        if self.aux is AuxKind.ZERO:
            return (1 << self.bits) - 1
        return max(int(np.abs(self.codebook(select)[0]).max()) for select in range(4))

    def decode(self, codes: np.ndarray, aux: np.ndarray | int = 0) -> np.ndarray:
        """int16 values of uint8 codes as the PE sees them: a zero point is still to be subtracted."""
        if self.aux is AuxKind.SELECT:
            tables = np.stack([decode_table(self.kind, s) for s in range(4)])
            return tables[np.asarray(aux, np.intp), codes].astype(np.int16)
        return decode_table(self.kind)[codes].astype(np.int16)

    def values(self, codes: np.ndarray, aux: np.ndarray | int = 0) -> np.ndarray:
        """int16 values of uint8 codes; `aux` (broadcast) is the select or the zero point."""
        values = self.decode(codes, aux)
        return values - np.asarray(aux, np.int16) if self.aux is AuxKind.ZERO else values

    def codebook(self, select: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Values in increasing order and their codes; symmetric integers leave out the lowest code, and
        of two codes of a value the higher."""
        table = decode_table(self.kind, select).astype(int)
        values, codes = np.unique(table, return_index=True)
        kept = values >= (-table.max() if self.aux is AuxKind.NONE else values.min())
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
]}


def act_max(bits: int) -> int:
    """Largest activation code of a symmetric integer activation type."""
    return (1 << (bits - 1)) - 1
