"""Rounding of float weights to a datatype, group by group, with 8-bit group scales.

Two levels of scales (as in BitMoD, HPCA 2025, Table V): a float32 scale per output channel, and per
group an unsigned 8-bit integer, or a small float, times it. Codes are rounded with the scale that the hardware will
use.
"""

from dataclasses import dataclass
from functools import lru_cache

import ml_dtypes
import numpy as np

from wordline.pe.datatypes import POWER_BYTES, AuxKind, ScaleKind, WeightType, scale_values, selects

_BLOCK = 1 << 15  # weights rounded at once, so that what comes between stays in the processor's cache

#: The hardware flushes subnormals to zero, so a channel scale is never smaller than this.
_SMALLEST = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class QuantTensor:
    """A quantised W[N, K].

    Attributes
    ----------
    codes : uint8[N, K]
    scales : uint8[N, groups]
        Group scales (uint16 if they have more than 8 bits); `scale_values` says what they multiply by.
    aux : int8[N, groups] or None
        Special-value select (0 to 3), zero point, or gaps (0 to 15).
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
        scales = scale_values(self.scales, self.dtype.float_scales).astype(np.int32)
        return self.dtype.values(self.codes, aux).astype(np.int32) * scales[:, group]


@lru_cache(maxsize=256)
def _rounding(dtype: WeightType, select: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Twice the lowest value of a codebook, and for every integer from there to twice the highest the value and the
    code that a ratio between half the integer below and half of it rounds to.

    Values are integers, so half-way points are multiples of a half: which of them are below a ratio only depends on
    twice the ratio, rounded up. A table is several times as fast as a search.
    """
    values, codes = dtype.codebook(select)
    doubled = np.arange(2 * values[0], 2 * values[-1] + 1)
    index = np.searchsorted(values[1:] + values[:-1], doubled)
    return int(doubled[0]), values[index].astype(np.float64), codes[index]


def _place(ratio: np.ndarray, lowest: int, count: int) -> np.ndarray:
    x = ratio * 2.0
    np.ceil(x, out=x)
    x -= lowest
    np.clip(x, 0, count - 1, out=x)
    return x.astype(np.int32)


def _nearest(ratio: np.ndarray, dtype: WeightType, select: int) -> np.ndarray:
    """float64: the values nearest to ratios; of two the lower."""
    lowest, values, _ = _rounding(dtype, select)
    return values.take(_place(ratio, lowest, len(values)))


def _nearest_codes(ratio: np.ndarray, dtype: WeightType, select: int) -> np.ndarray:
    """uint8: the codes of `_nearest`."""
    lowest, _, codes = _rounding(dtype, select)
    return codes.take(_place(ratio, lowest, len(codes)))


def _group_scales(scale: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales of `bits` bits and channel scale for float group scales [N, groups]."""
    largest = 2**bits - 1
    top = scale.max(axis=1, keepdims=True)
    channel = np.where(top > 0, np.maximum(top / largest, _SMALLEST), 1.0).astype(np.float32)
    rounded = np.clip(np.rint(scale / channel), 1, largest)
    return np.where(scale > 0, rounded, 0).astype(np.uint8 if bits <= 8 else np.uint16), channel


def quantize(weights: np.ndarray, dtype: WeightType, group_size: int | None = None, *,
             scale_bits: int = 8) -> QuantTensor:
    """Round W to `dtype`.

    Parameters
    ----------
    weights : float[N, K]
    group_size : int
        Elements of K that share a scale; None or 0 for the whole row. The last group may be shorter.
    scale_bits : int
        Of group scales that are integers, at most 16. The hardware has 8: others are for measuring what that costs.

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
    tensor_max = float(np.abs(weights).max())
    parts = [_quantize_rows(weights[i : i + rows], dtype, group, tensor_max, scale_bits) for i in range(0, n, rows)]
    codes, scales, aux, channel = (np.concatenate(part) for part in zip(*parts, strict=True))
    return QuantTensor(dtype, codes[:, :k], scales, aux if dtype.aux else None, channel[:, 0], group)


def _quantize_rows(w: np.ndarray, dtype: WeightType, group: int, tensor_max: float,
                   scale_bits: int) -> tuple[np.ndarray, ...]:
    n, k = w.shape
    groups = -(-k // group)
    w = np.pad(w, ((0, 0), (0, groups * group - k))).reshape(n, groups, group).astype(np.float64)
    if dtype.aux is AuxKind.ZERO:
        low, high = np.minimum(w.min(-1), 0), np.maximum(w.max(-1), 0)
        scales, channel = _group_scales((high - low) / (2**dtype.bits - 1), scale_bits)
        step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
        offset = 2 ** (dtype.bits - 1)
        zero = np.clip(np.rint(-low / step[..., 0]), 0, 2**dtype.bits - 1) - offset
        codes = np.clip(np.rint(w / step) + zero[..., None], -offset, offset - 1)
        codes = np.where(scales[..., None] > 0, codes, 0).astype(np.int64) & (2**dtype.bits - 1)
        aux = zero.astype(np.int8)
    elif dtype.aux is AuxKind.SELECT:
        scales, channel, codes, aux = _best_special_value(w, dtype, scale_bits)
    elif dtype.aux is AuxKind.GAPS:
        scales, channel, codes, aux = _best_gaps(w, k, dtype)
    elif dtype.float_scales:
        top = np.abs(w).max(-1)
        scales, channel = (_e4m3(top, tensor_max) if dtype.scales is ScaleKind.E4M3 else
                           _powers(_exponent(top) - 2, doubled=1))
        codes = _nearest_codes(w / _steps(scales, channel), dtype, 0)
        aux = np.zeros((n, groups), np.int8)
    else:
        values, _ = dtype.codebook()
        top = _mean_scale(w, k, dtype) if values.max() == 1 else np.abs(w).max(-1) / values.max()
        scales, channel = _group_scales(top, scale_bits)
        step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
        codes = _nearest_codes(w / step, dtype, 0)
        aux = np.zeros((n, groups), np.int8)
    return codes.astype(np.uint8).reshape(n, -1), scales, aux, channel


def _exponent(x: np.ndarray) -> np.ndarray:
    """floor(log2(x)); of 0, far below any other."""
    return np.where(x > 0, np.frexp(x)[1] - 1, -9999)


def _powers(exponents: np.ndarray, doubled: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bytes and channel scale of group scales ``2**exponents`` [N, groups] for values stored times ``2**doubled``. What
    is further below the row's largest than the bytes reach is 0."""
    last = len(POWER_BYTES) - 1
    unit = np.maximum(exponents.max(1, keepdims=True) - last, -126 + doubled)
    unit = np.where(unit < -999, 0, unit)  # an empty row
    place = exponents - unit
    scales = np.where(place >= 0, POWER_BYTES[np.clip(place, 0, last)], 0).astype(np.uint8)
    return scales, np.ldexp(np.float32(1), unit - doubled).astype(np.float32)


def _e4m3(top: np.ndarray, tensor_max: float) -> tuple[np.ndarray, np.ndarray]:
    """NVFP4: a block's largest magnitude becomes 6, the tensor's 6 * 448; the bytes are those of E4M3. Values are
    stored doubled and scales in units of 2^-9, so the channel scale is the tensor's divided by 1024."""
    channel = np.full((len(top), 1), max(tensor_max / (6 * 448 * 1024), _SMALLEST), np.float32)
    scale = np.minimum(top / (6 * 1024 * channel.astype(np.float64)), 448)
    return scale.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.uint8), channel


def _steps(scales: np.ndarray, channel: np.ndarray) -> np.ndarray:
    """float64[N, groups, 1]: what one unit of a value is, for float scales."""
    return np.maximum(scale_values(scales, True) * channel.astype(np.float64), 1e-300)[..., None]


def _best_gaps(w: np.ndarray, k: int, dtype: WeightType) -> tuple[np.ndarray, ...]:
    """Planes with power-of-two coefficients: of all gaps, and of three scales about the one that gives the group its
    energy, the pair with the least squared error. The papers alternate between signs and coefficients
    (binary-coded quantisation); with so few choices all can be tried."""
    group = w.shape[2]
    there = (np.arange(w.shape[1] * group) < k).reshape(1, -1, group)
    energy = np.sqrt((w * w).sum(-1) / there.sum(-1))
    best = np.full(energy.shape, np.inf)
    exponents, aux = np.zeros(energy.shape, int), np.zeros(energy.shape, np.int8)
    for select in range(selects(dtype.kind)):
        values, _ = dtype.codebook(select)
        middle = np.rint(np.log2(np.maximum(energy, 1e-300) / np.sqrt((values * values).mean()))).astype(int)
        for exponent in (middle - 1, middle, middle + 1):
            step = np.ldexp(1.0, exponent)[..., None]
            rounded = _nearest(w / step, dtype, select)
            error = (((rounded * step - w) * there) ** 2).sum(-1)
            better = error < best
            best, exponents, aux = (np.where(better, new, old) for new, old in (
                (error, best), (exponent, exponents), (np.int8(select), aux)))
    scales, channel = _powers(np.where(energy > 0, exponents, -9999))
    step = _steps(scales, channel)
    codes = np.zeros(w.shape, np.uint8)
    for select in range(selects(dtype.kind)):
        chosen = aux == select
        codes[chosen] = _nearest_codes(w[chosen] / step[chosen], dtype, select)
    return scales, channel, codes, aux


def _mean_scale(w: np.ndarray, k: int, dtype: WeightType) -> np.ndarray:
    """Scales [N, groups] of values of one magnitude. The mean magnitude first (BitNet b1.58, arXiv 2402.17764), then
    in turn the values nearest to the weights and the scale with the least squared error for these values."""
    group = w.shape[2]
    there = (np.arange(w.shape[1] * group) < k).reshape(1, -1, group)  # the rest is padding
    scale = np.abs(w).sum(-1) / there.sum(-1)
    for _ in range(4):
        values = _nearest(w / np.maximum(scale, 1e-300)[..., None], dtype, 0)
        values = values * there
        scale = (w * values).sum(-1) / np.maximum((values * values).sum(-1), 1)
    return scale


def _best_special_value(w: np.ndarray, dtype: WeightType, scale_bits: int) -> tuple[np.ndarray, ...]:
    """BitMoD, Algorithm 1: every group takes the special value with the least squared error."""
    top = np.abs(w).max(-1)
    tried = []
    for select in range(4):
        values, _ = dtype.codebook(select)
        scale = top / np.abs(values).max()
        rounded = _nearest(w / np.maximum(scale, 1e-300)[..., None], dtype, select)
        tried.append((((rounded * scale[..., None] - w) ** 2).sum(-1), scale))
    aux = np.argmin([error for error, _ in tried], axis=0)
    scales, channel = _group_scales(np.choose(aux, [scale for _, scale in tried]), scale_bits)
    step = np.maximum(scales * channel.astype(np.float64), 1e-300)[..., None]
    codes = np.zeros(w.shape, np.uint8)
    for select in range(4):
        chosen = aux == select
        codes[chosen] = _nearest_codes(w[chosen] / step[chosen], dtype, select)
    return scales, channel, codes, aux.astype(np.int8)


def dequantize(q: QuantTensor) -> np.ndarray:
    """float32[N, K]: the weights that the hardware multiplies by."""
    return (q.integers().astype(np.float64) * q.channel_scale[:, None]).astype(np.float32)
