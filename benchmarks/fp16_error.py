"""How far the PEs with FP16 activations are from exact arithmetic, in units of the last place of an FP16 result.

Groups of 128: activations as an LLM has them (Student's t with 3 degrees of freedom: outliers), weights of a normal
distribution rounded to the datatype. The error is the references', which the RTL equals bit for bit. A unit of the
last place of a result near zero is small, so that the worst cases are cancellations; the last column has the
largest error relative to the sum of the products' magnitudes, which cancellation does not touch.

    python benchmarks/fp16_error.py [GROUPS]
"""

import sys
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from wordline.pe.bit_serial_fp16 import BitSerialFp16
from wordline.pe.datatypes import WeightKind, decode_table
from wordline.pe.float_sum import ulps
from wordline.pe.fp16_dot import Fp16Dot
from wordline.pe.fp16_mac import Fp16Mac
from wordline.pe.lut_fp16 import K, LutFp16Column, TableFp16
from wordline.pe.shift_add_fp16 import ShiftAddFp16

GROUP = 128
#: Bits of an FP16 result's significand.
PLACES = 11

#: FP16 activations and real weights to the result, and the numbers that the weights were rounded to.
Unit = Callable[[np.ndarray, np.ndarray], tuple[Fraction, np.ndarray]]


def fp16_mac(acts: np.ndarray, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
    rounded = weights.astype(np.float16)
    return Fraction(float(Fp16Mac.reference(acts, rounded, subnormals=True))), rounded.astype(float)


def fp16_dot(acts: np.ndarray, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
    rounded = weights.astype(np.float16)
    pe = Fp16Dot()
    return pe.value(*pe.group_reference(acts.view(np.uint16), rounded.view(np.uint16))), rounded.astype(float)


def codes_of(weights: np.ndarray, kind: WeightKind) -> np.ndarray:
    """Codes of the nearest values after scaling the largest weight to the largest value."""
    table = decode_table(kind).astype(float)
    scaled = weights / np.abs(weights).max() * table.max()
    return np.abs(scaled[:, None] - table).argmin(1)


def bit_serial(kind: WeightKind, bits: int) -> Unit:
    pe = BitSerialFp16(bits=bits)

    def run(acts: np.ndarray, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
        codes = codes_of(weights, kind)
        return pe.value(*pe.reference(acts.view(np.uint16), codes, kind, 0, 1)), decode_table(kind)[codes].astype(float)

    return run


def shift_add(acts: np.ndarray, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
    values = decode_table(WeightKind.INT4)[codes_of(weights, WeightKind.INT4)].astype(int)
    pe = ShiftAddFp16()
    return pe.value(*pe.group_reference(acts.view(np.uint16), values)), values.astype(float)


def lut(bits: int) -> Unit:
    pe = LutFp16Column()

    def run(acts: np.ndarray, weights: np.ndarray) -> tuple[Fraction, np.ndarray]:
        # Odd integers: sums of planes of +-1.
        most = (1 << bits) - 1
        unsigned = np.clip(np.rint((weights / np.abs(weights).max() * most + most) / 2), 0, most).astype(int)
        steps = []
        for at in range(0, GROUP, K):
            table = TableFp16.reference(acts[at : at + K].view(np.uint16))
            for plane in range(bits):
                set_bits = sum((int(u) >> plane & 1) << i for i, u in enumerate(unsigned[at : at + K]))
                steps.append((table, set_bits, plane))
        return pe.value(*pe.reference(steps)), 2.0 * unsigned - most

    return run


UNITS: dict[str, Unit] = {
    "fp16_mac": fp16_mac,
    "fp16_dot, 4 lanes": fp16_dot,
    "bit_serial_fp16 FP4, 24-bit sum": bit_serial(WeightKind.FP4, 24),
    "bit_serial_fp16 FP4, 16-bit sum": bit_serial(WeightKind.FP4, 16),
    "bit_serial_fp16 FP3, 24-bit sum": bit_serial(WeightKind.FP3, 24),
    "bit_serial_fp16 INT8, 24-bit sum": bit_serial(WeightKind.INT8, 24),
    "bit_serial_fp16 INT8, 16-bit sum": bit_serial(WeightKind.INT8, 16),
    "shift_add_fp16 INT4": shift_add,
    "lut_fp16 INT2": lut(2),
    "lut_fp16 INT4": lut(4),
}


def errors(unit: Unit, groups: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Per group the error in units of the last place, and relative to the sum of magnitudes."""
    rng = np.random.default_rng(seed)
    places, relative = [], []
    for _ in range(groups):
        acts = rng.standard_t(3, GROUP).astype(np.float16)
        got, values = unit(acts, rng.standard_normal(GROUP))
        products = [Fraction(float(a)) * Fraction(float(w)) for a, w in zip(acts, values, strict=True)]
        true = sum(products, Fraction(0))
        if true:
            places.append(ulps(got, true, PLACES))
        relative.append(float(abs(got - true) / sum(map(abs, products))))
    return np.array(places), np.array(relative)


def main() -> None:
    groups = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{groups} groups of {GROUP}; ULP of FP16: median, 99 %, largest; largest error / sum of magnitudes")
    for name, unit in UNITS.items():
        places, relative = errors(unit, groups)
        print(f"{name:34} {np.median(places):9.5f} {np.quantile(places, 0.99):9.4f} {places.max():9.3f}   "
              f"2^{np.log2(relative.max()):.1f}")


if __name__ == "__main__":
    main()
