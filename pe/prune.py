"""Pruning by magnitude: which groups of a matrix, or which single weights, are left out.

A kept group is a run of `group` weights along K in some output channels. With one channel this is GQSA's 1 x G group
(arXiv 2412.17560). The array multiplies `cols` channels at once, so a tile holds every group that any of its channels
keeps; where `channels` is the array's columns (or a multiple), neighbours keep the same groups and nothing is held in
vain.

N:M sparsity keeps N of every M single weights. Here those that compete lie `stride` apart, so that each of an array's
lanes picks among words that it reads anyway; FlightLLM (arXiv 2401.03868) has a multiplexer that picks for each
multiplier.
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


def prune_nm(weights: np.ndarray, n: int, m: int, *, stride: int = 1, channels: int = 1) -> np.ndarray:
    """W with all weights but `n` of every `m` set to zero, those with the largest sums of squares over the channels.

    Parameters
    ----------
    weights : float32[N, K]
        The last weights of a row compete with zeros if K is no multiple of ``m * stride``.
    stride : int
        Elements i, i + stride, ..., i + (m-1) * stride compete, in windows of ``m * stride`` elements of K.
    channels : int
        Rows that keep the same weights.
    """
    rows, k = weights.shape
    blocks, windows = -(-rows // channels), -(-k // (m * stride))
    padded = np.zeros((blocks * channels, windows * m * stride), np.float32)
    padded[:rows, :k] = weights
    energy = np.square(padded.reshape(blocks, channels, windows, m, stride), dtype=np.float64).sum(1)
    order = np.argsort(-energy, axis=2, kind="stable")
    kept = np.zeros(energy.shape, bool)
    np.put_along_axis(kept, order[:, :, :n], True, axis=2)
    mask = np.repeat(kept.reshape(blocks, -1), channels, 0)[:rows, :k]
    return np.where(mask, weights, np.float32(0))


def words_kept(n: int, m: int, stride: int, *, lanes: int, window: int, patterns: int = 1) -> int:
    """Words that an array must hold of every `window` so that no weight is lost which `prune_nm` may keep.

    A word has `lanes` neighbouring elements of K. Of the elements that a lane has in a window, those that compete
    with each other are at most `n`, or `patterns` times `n` where so many patterns meet in a tile.
    """
    most = 0
    period = max(1, m * stride // lanes)  # words, after which the pattern begins anew
    for first in range(0, max(period, window), window):
        element = (first + np.arange(window))[:, None] * lanes + np.arange(lanes)
        compete = element // (m * stride) * stride + element % stride
        for lane in compete.T:
            _, counts = np.unique(lane, return_counts=True)
            most = max(most, int(np.minimum(counts, n * patterns).sum()))
    return most
