"""Error compensation (GPTQ, Frantar et al., ICLR 2023, arXiv 2210.17323, algorithm 1).

Columns are rounded one after the other; what a column is off by is made up for by those not rounded yet, as the
correlations of the inputs allow. Scales, zero points and special values are those of plain rounding and stay.
"""

from collections.abc import Callable

import numpy as np

from wordline.compiler.calibration import Inputs, Work
from wordline.pe.datatypes import AuxKind, scale_values, selects
from wordline.pe.quantize import QuantTensor

DAMPING = 0.01  # of the mean of the Gram matrix's diagonal
_BLOCK = 64  # columns whose corrections reach the rest of the matrix together


def _round(ratio: np.ndarray, q: QuantTensor, aux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and codes next to ``weight / step`` [N], for selects or zero points [N]."""
    dtype = q.dtype
    if dtype.aux is AuxKind.ZERO:
        offset = 1 << (dtype.bits - 1)
        codes = np.clip(np.rint(ratio) + aux, -offset, offset - 1)
        return codes - aux, codes.astype(np.int64) & ((1 << dtype.bits) - 1)
    values, codes = np.zeros(len(ratio)), np.zeros(len(ratio), np.int64)
    for select in range(selects(dtype.kind) if dtype.aux is not AuxKind.NONE else 1):
        chosen = np.flatnonzero(aux == select)
        book, numbers = dtype.codebook(select)
        index = np.searchsorted((book[1:] + book[:-1]) / 2.0, ratio[chosen])
        values[chosen], codes[chosen] = book[index], numbers[index]
    return values, codes


def compensated(weights: np.ndarray, q: QuantTensor, inputs: Inputs) -> QuantTensor:
    """Weights [N, K] rounded with the scales of `q`, which is their plain rounding."""
    n, k = weights.shape
    gram = inputs.gram.astype(np.float64)
    diagonal = np.diag(gram)
    gram = gram + np.diag(np.where(diagonal > 0, DAMPING * diagonal.mean(), 1.0))
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T  # upper: row j corrects the columns behind j
    left = weights.astype(np.float64)
    codes = np.empty((n, k), np.uint8)
    aux = np.zeros(q.scales.shape) if q.aux is None else q.aux.astype(np.float64)
    step = scale_values(q.scales, q.dtype.float_scales) * q.channel_scale.astype(np.float64)[:, None]
    for start in range(0, k, _BLOCK):
        end = min(start + _BLOCK, k)
        block, errors = left[:, start:end].copy(), np.empty((n, end - start))
        for j in range(start, end):
            g, at = j // q.group_size, j - start
            w, s = block[:, at], step[:, g]
            value, codes[:, j] = _round(np.where(s > 0, w / np.maximum(s, 1e-300), 0), q, aux[:, g])
            errors[:, at] = (w - value * s) / factor[j, j]
            block[:, at + 1 :] -= errors[:, at : at + 1] * factor[j, j + 1 : end]
        left[:, end:] -= errors @ factor[start:end, end:]
    return QuantTensor(q.dtype, codes, q.scales, q.aux, q.channel_scale, q.group_size)


def apply(work: Work, progress: Callable[[str], None]) -> None:
    for m in work.matrices():
        progress(m.name)
        weights = work.weights(m)
        work.quantised[m.name] = compensated(weights, work.plain(weights, m.kind), work.inputs[m.name])
