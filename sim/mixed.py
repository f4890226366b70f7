"""Mixed precision: the weight type of each of a layer's matrices, by its sensitivity, under a budget of bits.

Layers are one loop on the accelerator, so a kind of matrix (qkv, o, gate_up, down) has one type in all layers. Its
sensitivity to a type is the KL divergence of the source model with that kind alone rounded, on calibration text. The
divergences of the kinds are taken to add up, and of all choices within the budget the one with the least sum is taken.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from wordline.compiler.image import matrices
from wordline.compiler.model import Model, ModelError
from wordline.pe.datatypes import WEIGHT_TYPES, WeightType
from wordline.pe.quantize import dequantize, quantize
from wordline.sim.accuracy import matrix_shapes, weight_bits
from wordline.sim.evaluate import kl_divergence
from wordline.sim.reference import float_logits


class _Rounded(Mapping[str, np.ndarray]):
    """The tensors of a model, some of them rounded when they are asked for."""

    def __init__(self, base: Mapping[str, np.ndarray], parts: tuple[str, ...], dtype: WeightType, group_size: int):
        self.base, self.ends = base, tuple(f"{part}.weight" for part in parts)
        self.dtype, self.group_size = dtype, dtype.group(group_size)

    def __getitem__(self, name: str) -> np.ndarray:
        x = self.base[name]
        return dequantize(quantize(x, self.dtype, self.group_size)) if name.endswith(self.ends) else x

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


@dataclass(frozen=True)
class Plan:
    """Types by kind of matrix, bits per weight of the layers' matrices with all metadata, and the divergences'
    sum."""

    types: dict[str, str]
    bits: float
    predicted_kl: float

    def mixed(self) -> tuple[str, ...]:
        """As `TypesConfig.mixed` takes it."""
        return tuple(f"{kind}={name}" for kind, name in self.types.items())


def sensitivities(model: Model, dtypes: list[str], group_size: int, ids: np.ndarray,
                  progress: Callable[[str], None] = lambda what: None) -> dict[tuple[str, str], float]:
    """KL divergence, nats, for each kind of matrix and weight type, on one window of token ids."""
    progress("sensitivity: the source model")
    source = float_logits(model, ids)
    found = {}
    for kind, parts in matrices(model.config).items():
        for dtype in dtypes:
            progress(f"sensitivity of {kind} to {dtype}")
            rounded = _Rounded(model.tensors, parts, WEIGHT_TYPES[dtype], group_size)
            ours = float_logits(replace(model, tensors=rounded), ids)
            found[kind, dtype] = float(kl_divergence(source, ours).mean())
    return found


def plan(model: Model, found: dict[tuple[str, str], float], budget: float, group_size: int) -> Plan:
    """The best choice of types within a budget of bits per weight.

    Raises
    ------
    ModelError
        Even the smallest types take more.
    """
    shapes = matrix_shapes(model.config)
    count = sum(n * k for n, k in shapes.values())
    dtypes = list(dict.fromkeys(dtype for _, dtype in found))
    best, smallest = None, np.inf
    for choice in product(dtypes, repeat=len(shapes)):
        types = dict(zip(shapes, choice, strict=True))
        bits = sum(weight_bits(WEIGHT_TYPES[d], shapes[kind], group_size) for kind, d in types.items()) / count
        kl = sum(found[kind, d] for kind, d in types.items())
        smallest = min(smallest, bits)
        if bits <= budget and (best is None or (kl, bits) < (best.predicted_kl, best.bits)):
            best = Plan(types, bits, kl)
    if best is None:
        raise ModelError(f"{model.config.name}: a budget of {budget:g} bits per weight is below {smallest:.3f}, which "
                         f"the smallest of {', '.join(dtypes)} take")
    return best
