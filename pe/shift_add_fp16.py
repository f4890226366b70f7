"""`shift_add` with FP16 activations (MixPE, arXiv 2411.16158: W4A16): INT4 times FP16 without a multiplier.

The paper's PE is known to us by its abstract and its simulator only, so the inside is ours: a product is the sum of
the activation's significand shifted to the places of the weight magnitude's set bits, exact in 14 bits; four lanes
are aligned and summed as in `bit_serial_fp16`. Scale and zero point come once per group, behind the PE.
"""

from collections.abc import Sequence

from amaranth.hdl import Mux, Signal, signed
from amaranth.lib import data

from wordline.pe.float_sum import FP16_BIAS, AlignedDot, half, half_ints

LANES = 4


class ShiftAddFp16(AlignedDot):
    """``sum(act * weight)`` of FP16 activations and INT4 weights, four products a cycle."""

    def __init__(self, *, bits: int = 24):
        super().__init__(step={"acts": data.ArrayLayout(16, LANES), "weights": data.ArrayLayout(signed(4), LANES)},
                         lanes=LANES, product_bits=14, bits=bits, unit=-FP16_BIAS)

    def products(self, m):
        lanes = []
        for i in range(LANES):
            act, weight = half(self.step.acts[i]), self.step.weights[i]
            size, magnitude = Signal(4, name=f"size_{i}"), Signal(14, name=f"magnitude_{i}")
            m.d.comb += size.eq(Mux(weight < 0, -weight, weight))
            shifted = [Mux(size[bit], act.significand << bit, 0) for bit in range(4)]
            m.d.comb += magnitude.eq(sum(shifted[1:], shifted[0]))
            lanes.append((act.sign ^ (weight < 0), magnitude, Mux(size == 0, 0, act.exponent)))
        return lanes

    def group_reference(self, acts: Sequence[int], weights: Sequence[int]) -> tuple[int, int]:
        """(significand, exponent) of a group: FP16 bits and integers, whole steps of four."""
        lanes = [(half_ints(int(act)), int(weight)) for act, weight in zip(acts, weights, strict=True)]
        products = [(value * weight, exponent if weight else 0) for (value, exponent), weight in lanes]
        return self.reference((products[i : i + LANES], 0) for i in range(0, len(products), LANES))
