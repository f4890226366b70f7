"""Pruning of whole groups: which groups of a matrix are left out, by magnitude.

A kept group is a run of `group` weights along K in some output channels. With one channel this is GQSA's 1 x G group
(arXiv 2412.17560). The array multiplies `cols` channels at once, so a tile holds every group that any of its channels
keeps; where `channels` is the array's columns (or a multiple), neighbours keep the same groups and nothing is held in
vain.
"""

import math

import numpy as np


def kept_of(groups: int, keep: float, window: int = 0) -> int:
    """How many of `groups` groups are kept: the share `keep`, rounded up, of every `window` (0: of all)."""
    window = min(window or groups, groups)
    whole, rest = divmod(groups, window)
    return whole * math.ceil(window * keep - 1e-9) + math.ceil(rest * keep - 1e-9)


def prune(weights: np.ndarray, group: int, keep: float, *, channels: int = 1, window: int = 0) -> np.ndarray:
    """W with all groups but those of the largest sums of squares set to zero.

    Parameters
    ----------
    weights : float32[N, K]
    group : int
        Elements of K in a group; 0 for the whole row. The last may be shorter.
    keep : float
        Share of the groups that is kept, 0 to 1, rounded up.
    channels : int
        Rows that keep the same groups.
    window : int
        Of every so many neighbouring groups the same number is kept (N of M, in units of groups); 0: of the row.
    """
    n, k = weights.shape
    group = group or k
    groups = -(-k // group)
    window = window or groups
    blocks, windows = -(-n // channels), -(-groups // window)
    padded = np.zeros((blocks * channels, windows * window * group), np.float64)
    padded[:n, :k] = weights
    energy = (padded.reshape(blocks, channels, windows, window, group) ** 2).sum((1, 4))
    order = np.argsort(-energy, axis=-1, kind="stable")
    kept = np.zeros(energy.shape, bool)
    for i in range(windows):
        there = min(window, groups - i * window)
        np.put_along_axis(kept[:, i], order[:, i, : kept_of(there, keep)], True, axis=-1)
    mask = np.repeat(np.repeat(kept.reshape(blocks, -1), channels, 0)[:n], group, 1)[:, :k]
    return np.where(mask, weights, np.float32(0))
