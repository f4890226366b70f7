"""Clipping search: groups give up their largest weights for a finer step where that leaves a smaller error.

Every group is tried with its range cut to five fractions; the error of a weight counts as much as the mean square of
the input that it meets (the diagonal of the Gram matrix).
"""

from collections.abc import Callable

import numpy as np

from wordline.compiler.calibration import Work

FRACTIONS = (1.0, 0.93, 0.86, 0.79, 0.72)
_ROWS = 512  # rounded at once


def _clipped(groups: np.ndarray, fraction: float | np.ndarray) -> np.ndarray:
    low, high = np.minimum(groups.min(-1, keepdims=True), 0), np.maximum(groups.max(-1, keepdims=True), 0)
    return np.clip(groups, low * fraction, high * fraction)


def clipped(weights: np.ndarray, importance: np.ndarray, work: Work, kind: str) -> np.ndarray:
    """float32[N, K]: weights [N, K] cut group by group; `importance` [K] weighs squared errors."""
    n, k = weights.shape
    group = work.group_size(kind) or k
    pad = -k % group
    groups = np.pad(weights, ((0, 0), (0, pad))).reshape(n, -1, group)
    weigh = np.pad(importance, (0, pad)).reshape(1, -1, group)
    best, least = np.ones((n, groups.shape[1], 1), np.float32), np.full((n, groups.shape[1]), np.inf)
    for fraction in FRACTIONS:
        rounded = work.rounded(_clipped(groups, fraction).reshape(n, -1)[:, :k], kind)
        error = (np.pad(rounded, ((0, 0), (0, pad))).reshape(groups.shape) - groups) ** 2
        error = (error * weigh).sum(-1)
        better = error < least
        least[better] = error[better]
        best[better] = fraction
    return _clipped(groups, best).reshape(n, -1)[:, :k]


def apply(work: Work, progress: Callable[[str], None]) -> None:
    for m in work.matrices():
        progress(m.name)
        weights, importance = work.weights(m), np.diag(work.inputs[m.name].gram)
        work.put(m, np.concatenate([clipped(weights[i : i + _ROWS], importance, work, m.kind)
                                    for i in range(0, len(weights), _ROWS)]))
