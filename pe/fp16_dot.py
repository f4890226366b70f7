"""`fp16_dot`: four FP16 products aligned and added before one running sum: what sharing that sum is worth by itself.

BitMoD's PE and `fp16_mac` differ in two ways: how a product is made, and how many products share one normalised
sum. This PE differs from `fp16_mac` in the second way only, and from BitMoD's mostly in the first.
"""

from collections.abc import Sequence

from amaranth.hdl import Const, Mux, Signal
from amaranth.lib import data

from wordline.pe.float_sum import FP16_BIAS, AlignedDot, half, half_ints

LANES = 4


class Fp16Dot(AlignedDot):
    """``sum(act * weight)`` of FP16 numbers, four products a cycle; subnormals count with their value.

    Products have 22 bits, which aligned leave no room for more in a sum of 24.
    """

    def __init__(self, *, bits: int = 24):
        numbers = data.ArrayLayout(16, LANES)
        super().__init__(step={"acts": numbers, "weights": numbers}, lanes=LANES, product_bits=22, bits=bits,
                         unit=-2 * FP16_BIAS, guard=0)

    def products(self, m):
        lanes = []
        for i in range(LANES):
            act, weight = half(self.step.acts[i]), half(self.step.weights[i])
            product, zero = Signal(22, name=f"product_{i}"), Signal(name=f"zero_{i}")
            exponent = Signal(6, name=f"exponent_{i}")
            m.d.comb += [product.eq(act.significand * weight.significand),
                         zero.eq((act.significand == 0) | (weight.significand == 0)),
                         exponent.eq(Mux(zero, Const(0), act.exponent + weight.exponent))]
            lanes.append((act.sign ^ weight.sign, product, exponent))
        return lanes

    def group_reference(self, acts: Sequence[int], weights: Sequence[int]) -> tuple[int, int]:
        """(significand, exponent) of a group of FP16 bits, whole steps of four."""
        pairs = [(half_ints(int(a)), half_ints(int(w))) for a, w in zip(acts, weights, strict=True)]
        products = [(a * w, ea + ew if a and w else 0) for (a, ea), (w, ew) in pairs]
        return self.reference((products[i : i + LANES], 0) for i in range(0, len(products), LANES))
