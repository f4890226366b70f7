"""What an instruction of a compiled transformer names: registers, scalars, and vectors in a bank."""

from dataclasses import dataclass, field
from typing import Any

from wordline.compiler.builder import Operand, Parts
from wordline.rtl.isa import Destination, IntBits, Reduction, SourceA, SourceB

# Registers. PROMPT, LAST, START, EOS are the host's arguments; START is over when KEY_TILES begins.
PROMPT, LAST, KEY_TILES, EOS, POSITION, TOKENS, CONTEXT, LAYER, VALUE_STEPS, VALUE_BEATS = range(1, 11)
START = KEY_TILES
SEALED = VALUE_BEATS  # tiles of sealed keys, where keys are sealed
ROW, ROW_M, ROW_X, T1, T2 = range(11, 16)
# Scalars of the vector unit. An instruction has one immediate; a second constant is in S_ONE or S_CONSTANT.
S_SUM, S_SCALE, S_INVERSE, S_NORM, S_TOTAL, S_MEAN, S_SHIFT, S_ZERO, S_BEST, S_TOKEN = range(10)
S_ONE, S_CONSTANT, S_EPS = 13, 14, 15

INT_BITS = {int(bits.name[1:]): bits for bits in IntBits}
#: How integers of the cache are rounded. Below 8 bits they take all codes: rounding to twice the bits cuts none off,
#: and STORE takes the low ones.
STORED_BITS = {8: IntBits.B8, 4: IntBits.B8, 2: IntBits.B4}

#: Fields for the last pass of something: the largest magnitude, which quantisation needs, costs no pass of its own.
ABSMAX: dict[str, Any] = {"reduction": Reduction.ABSMAX, "scalar": S_SUM}


@dataclass(frozen=True)
class Vec:
    """A row's vector: its bank, its first word, and the part of the bank, if it is one."""

    bank: SourceA
    at: Operand
    parts: Parts = field(default_factory=dict)

    @property
    def a(self) -> dict[str, Any]:
        """As first operand."""
        return {"a_source": self.bank, "a": self.at}

    @property
    def b(self) -> dict[str, Any]:
        """As second operand."""
        return {"b_source": {SourceA.X: SourceB.X, SourceA.M: SourceB.M}[self.bank], "b": self.at}


def to_x(at: Operand, **more: Any) -> dict[str, Any]:
    """The fields of a result in bank X."""
    return {"destination": Destination.X, "dst": at, **more}
