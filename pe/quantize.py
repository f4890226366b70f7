"""Rounding of float weights to a datatype, group by group, with 8-bit group scales.

Two levels of scales (as in BitMoD, HPCA 2025, Table V): a float32 scale per output channel, and per
group an unsigned 8-bit integer times it. Codes are rounded with the scale that the hardware will use.
"""

from dataclasses import dataclass

import numpy as np

from wordline.pe.datatypes import AuxKind, WeightType

_BLOCK = 1 << 20  # weights rounded at once, which bounds the temporary memory

#: The hardware flushes subnormals to zero, so a channel scale is never smaller than this.
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class QuantTensor:
    """A quantised W[N, K].

    Attributes
    ----------
    codes : uint8[N, K]
    scales : uint8[N, groups]
        Group scales.
    aux : int8[N, groups] or None
        Special-value select (0 to 3) or zero point.
    channel_scale : float32[N]
    group_size : int
        Elements of K in a group; the last may be shorter.
    """

    dtype: WeightType
    codes: np.ndarray
    scales: np.ndarray
    aux: np.ndarray | None
    channel_scale: np.ndarray
    group_size: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape

    def integers(self) -> np.ndarray:
        """int32[N, K]: group scale times value, which the array's accumulator sums."""
        group = np.arange(self.shape[1]) // self.group_size
        aux = 0 if self.aux is None else self.aux[:, group]
        return self.dtype.values(self.codes, aux).astype(np.int32) * self.scales[:, group]


def _nearest(ratio: np.ndarray, dtype: WeightType, select: int) -> tuple[np.ndarray, np.ndarray]:
    values, codes = dtype.codebook(select)
    index = np.searchsorted((values[1:] + values[:-1]) / 2.0, ratio)
    return values[index], codes[index]


def _group_scales(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-bit scales and channel scale for float group scales [N, groups]."""
    top = scale.max(axis=1, keepdims=True)
    channel = np.where(top > 0, np.maximum(top / 255.0, _SMALLEST), 1.0).astype(np.float32)
    eight = np.clip(np.rint(scale / channel), 1, 255)
    return np.where(scale > 0, eight, 0).astype(np.uint8), channel


def quantize(weights: np.ndarray, dtype: WeightType, group_size: int | None = None) -> QuantTensor:
    """Round W to `dtype`.

    Parameters
    ----------
    weights : float[N, K]
    group_size : int
        Elements of K that share a scale; None or 0 for the whole row. The last group may be shorter.

    Raises
    ------
    ValueError
        W is not a matrix or is empty, a value is not finite (the position is named), or the group size is
        negative.
    """
    weights = np.asarray(weights, np.float32)
    if weights.ndim != 2 or weights.size == 0:
        raise ValueError(f"weights must be a matrix with elements, not of shape {weights.shape}")
    if group_size is not None and group_size < 0:
        raise ValueError(f"group_size must be None or at least 0, not {group_size}")
    if not np.isfinite(weights).all():
        n, k = np.argwhere(~np.isfinite(weights))[0]
        raise ValueError(f"weight [{n}, {k}] is {weights[n, k]}, not a finite number")
    n, k = weights.shape
    group = group_size or k
    rows = max(1, _BLOCK // k)
    parts = [_quantize_rows(weights[i : i + rows], dtype, group) for i in range(0, n, rows)]
    codes, scales, aux, channel = (np.concatenate(part) for part in zip(*parts, strict=True))
    return QuantTensor(dtype, codes[:, :k], scales, aux if dtype.aux else None, channel[:, 0], group)


def _quantize_rows(w: np.ndarray, dtype: WeightType, group: int) -> tuple[np.ndarray, ...]:
    n, k = w.shape
    groups = -(-k // group)
    w = np.pad(w, ((0, 0), (0, groups * group - k))).reshape(n, groups, group).astype(np.float64)
    if dtype.aux is AuxKind.ZERO:
        low, high = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0)
        scales, channel = _group_scales((high - low) / (2**dtype.bits - 1))
        step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
        offset = 2 ** (dtype.bits - 1)
        zero = np.clip(np.rint(-low / step[..., 0]), 0, 2**dtype.bits - 1) - offset
        codes = np.clip(np.rint(w / step) + zero[..., None], -offset, offset - 1)
        codes = np.where(scales[..., None] > 0, codes, 0).astype(np.int64) & (2**dtype.bits - 1)
        aux = zero.astype(np.int8)
    elif dtype.aux is AuxKind.SELECT:
        scales, channel, codes, aux = _best_special_value(w, dtype)
    else:
        values, _ = dtype.codebook()
        top = _mean_scale(w, k, dtype) if values.max() == 1 else np.abs(w).max(-1) / values.max()
        scales, channel = _group_scales(top)
        step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
        _, codes = _nearest(w / step, dtype, 0)
        aux = np.zeros((n, groups), np.int8)
    return codes.astype(np.uint8).reshape(n, -1), scales, aux, channel


def _mean_scale(w: np.ndarray, k: int, dtype: WeightType) -> np.ndarray:
    """Scales [N, groups] of values of one magnitude. The mean magnitude first (BitNet b1.58, arXiv 2402.17764), then
    in turn the values nearest to the weights and the scale with the least squared error for these values."""
    group = w.shape[2]
    there = (np.arange(w.shape[1] * group) < k).reshape(1, -1, group)  # the rest is padding
    scale = np.abs(w).sum(-1) / there.sum(-1)
    for _ in range(4):
        values, _ = _nearest(w / np.maximum(scale, 1e-300)[..., None], dtype, 0)
        values = values * there
        scale = (w * values).sum(-1) / np.maximum((values * values).sum(-1), 1)
    return scale


def _best_special_value(w: np.ndarray, dtype: WeightType) -> tuple[np.ndarray, ...]:
    """BitMoD, Algorithm 1: every group takes the special value with the least squared error."""
    top = np.abs(w).max(-1)
    tried = []
    for select in range(4):
        values, _ = dtype.codebook(select)
        scale = top / np.abs(values).max()
        rounded, _ = _nearest(w / np.maximum(scale, 1e-300)[..., None], dtype, select)
        tried.append((((rounded * scale[..., None] - w) ** 2).sum(-1), scale))
    aux = np.argmin([error for error, _ in tried], axis=0)
    scales, channel = _group_scales(np.choose(aux, [scale for _, scale in tried]))
    step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
    codes = np.zeros(w.shape, np.uint8)
    for select in range(4):
        chosen = aux == select
        codes[chosen] = _nearest(w[chosen] / step[chosen], dtype, select)[1]
    return scales, channel, codes, aux.astype(np.int8)


def dequantize(q: QuantTensor) -> np.ndarray:
    """float32[N, K]: the weights that the hardware multiplies by."""
    return (q.integers().astype(np.float64) * q.channel_scale[:, None]).astype(np.float32)
