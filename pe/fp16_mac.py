"""`fp16_mac`: FP16 times FP16, accumulated in float32: what the papers measure their PEs against.

A unit on its own: the accelerator around it has integer activations. The product of two FP16 numbers is exact in
float32, so the only rounding is the sum's, to nearest even, and the reference is numpy's float32 addition.
Operands come from registers that neighbours share and the result leaves in two's complement with its exponent, as in
the other FP16 units; `Fp16Mac.value` says what number it is.
"""

import numpy as np
from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from wordline.pe.float_parts import normalise
from wordline.pe.float_sum import FP16_BIAS, SUM_EXPONENT_BITS, RunningSum, exact, half, sum_layout

BITS, GUARD = 24, 4
_PRODUCT = 23  # signed


class Fp16Mac(wiring.Component):
    """``sum = float32(sum + act * weight)``, a product a cycle.

    Parameters
    ----------
    subnormals : bool
        Whether subnormal operands count with their value; else as zero, as in the FP16 units of most libraries, which
        is smaller: the products' leading zeros need a shifter otherwise.

    Members
    -------
    valid, step : In, `act` and `weight` (FP16 bits; no infinity, no NaN), and whether the step is the `last` of a sum
    done, sum : Out, for one cycle the sum of the products up to a `last`, ``latency`` cycles later

    Latency 2, with subnormals 3.
    """

    def __init__(self, *, subnormals: bool = False):
        self.subnormals = subnormals
        self.latency = 3 if subnormals else 2
        super().__init__({
            "valid": In(1), "step": In(data.StructLayout({"act": 16, "weight": 16, "last": 1})),
            "done": Out(1), "sum": Out(sum_layout(BITS)),
        })

    @staticmethod
    def value(significand: int, exponent: int):
        """The sum as a Fraction."""
        unit = -2 * FP16_BIAS - (BITS + 1 - _PRODUCT) - RunningSum.bias(BITS, GUARD)
        return exact(significand, exponent + unit)

    @staticmethod
    def reference(acts: np.ndarray, weights: np.ndarray, subnormals: bool = False) -> np.float32:
        """The sum of products of float16[K] in order, each addition rounded to float32."""
        total = np.float32(0)
        for act, weight in zip(_flush(acts, subnormals), _flush(weights, subnormals), strict=True):
            total = np.float32(total + np.float32(act) * np.float32(weight))
        return total

    def elaborate(self, platform):
        m = Module()
        m.submodules.total = total = RunningSum(bits=BITS, addend_bits=_PRODUCT, guard=GUARD)
        step = self.step
        act, weight = half(step.act), half(step.weight)
        sign, product, exponent = act.sign ^ weight.sign, Signal(22), Signal(SUM_EXPONENT_BITS)
        valid, last = self.valid, step.last
        m.d.comb += product.eq(act.significand * weight.significand)
        unit = RunningSum.bias(BITS, GUARD)
        if self.subnormals:
            held, sum_held, sign_held = Signal(22), Signal(6), Signal()
            valid_held, last_held = Signal(), Signal()
            m.d.sync += [held.eq(product), sum_held.eq(act.exponent + weight.exponent), sign_held.eq(sign),
                         valid_held.eq(valid), last_held.eq(last)]
            product, places = normalise(m, held)
            m.d.comb += exponent.eq(Mux(held == 0, 0, sum_held + unit - places))
            sign, valid, last = sign_held, valid_held, last_held
        else:
            zero = ~(act.significand[10] & weight.significand[10])
            m.d.comb += exponent.eq(Mux(zero, 0, act.exponent + weight.exponent + unit))
        addend, own = Signal(signed(_PRODUCT)), Signal(SUM_EXPONENT_BITS)
        m.d.sync += [
            addend.eq(Mux(exponent == 0, 0, Mux(sign, -product, product))), own.eq(exponent),
            total.valid.eq(valid), total.last.eq(last),
        ]
        m.d.comb += [
            total.addend.eq(addend), total.exponent.eq(own),
            self.done.eq(total.done), self.sum.eq(total.sum),
        ]
        return m


def _flush(x: np.ndarray, subnormals: bool) -> np.ndarray:
    x = np.asarray(x, np.float16)
    return x if subnormals else np.where(np.abs(x) < np.finfo(np.float16).smallest_normal, np.float16(0), x)
