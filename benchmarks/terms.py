"""What term skipping in `bit_serial` would gain: the cycles that real weights need, of those that a step takes.

    python benchmarks/terms.py [MODEL] [DATATYPE ...]

A step takes a cycle for every term of its datatype. It could be as short as the most terms that any weight needs, of
all lanes and columns that share it (each lane giving its own non-zero terms one after the other): the array has
one front end, so that is every column. The figures are shares of the declared cycles: 1 is no gain.
"""

import sys
from collections.abc import Iterator

import numpy as np

from wordline.compiler.model import load_model
from wordline.pe.bit_serial import TERMS
from wordline.pe.datatypes import INT_BITS, WEIGHT_TYPES, WeightType
from wordline.pe.quantize import quantize

GROUP = 64
#: Lanes and columns in step; BitMoD's tile is 4 x 8, `configs/bitmod.toml` 16 x 8, `configs/kv260.toml` 16 x 16.
SHAPES = ((1, 1), (4, 1), (16, 1), (4, 8), (16, 8), (16, 16))


def terms(values: np.ndarray, dtype: WeightType) -> np.ndarray:
    """Non-zero terms of each value: Booth digits of an integer, set bits of a BitMoD float."""
    if dtype.kind in INT_BITS:
        triples = (values.astype(int)[..., None] << 1) >> 2 * np.arange(TERMS[dtype.kind]) & 7
        return ((triples != 0) & (triples != 7)).sum(-1)
    return (np.abs(values.astype(int))[..., None] >> np.arange(5) & 1).sum(-1)


def matrices(name: str, dtype: WeightType) -> Iterator[np.ndarray]:
    """Terms of the layers' matrices [N, K]."""
    model = load_model(name)
    for key in model.tensors:
        w = model.tensors[key]
        if w.ndim == 2 and key.startswith("model.layers."):
            q = quantize(w, dtype, GROUP)
            aux = 0 if q.aux is None else np.repeat(q.aux, GROUP, 1)[:, : w.shape[1]]
            yield terms(dtype.decode(q.codes, aux), dtype)


def share(counts: list[np.ndarray], lanes: int, cols: int, declared: int) -> float:
    cycles = steps = 0
    for c in counts:
        n, k = c.shape[0] // cols * cols, c.shape[1] // lanes * lanes
        longest = np.maximum(c[:n, :k].reshape(n // cols, cols, k // lanes, lanes).max((1, 3)), 1)
        cycles, steps = cycles + int(longest.sum()), steps + longest.size
    return cycles / (steps * declared)


def main() -> None:
    name, *types = sys.argv[1:] or ["austen"]
    print("lanes x columns  " + "  ".join(f"{lanes} x {cols}" for lanes, cols in SHAPES))
    for dtype in (WEIGHT_TYPES[t] for t in types or ["int8", "int6", "int5", "int4", "bitmod_fp4", "bitmod_fp3"]):
        counts = list(matrices(name, dtype))
        found = (share(counts, lanes, cols, TERMS[dtype.kind]) for lanes, cols in SHAPES)
        print(f"{dtype.name:15}  " + "  ".join(f"{x:5.3f}" for x in found), flush=True)


if __name__ == "__main__":
    main()
