"""Pruning of whole groups by magnitude."""

import numpy as np
import pytest

from wordline.pe.prune import kept_of, prune


def groups_left(w: np.ndarray, group: int) -> np.ndarray:
    return w.reshape(len(w), -1, group).any(-1)


@pytest.mark.parametrize(("keep", "channels", "window"), [
    (0.5, 1, 0), (0.3, 8, 0), (0.5, 4, 4), (0.25, 16, 8), (0.5, 3, 3)])
def test_the_largest_groups_stay_and_blocks_agree(keep, channels, window):
    w = np.random.default_rng(1).standard_normal((32, 16 * 16)).astype(np.float32)
    pruned = prune(w, 16, keep, channels=channels, window=window)
    left = groups_left(pruned, 16)
    assert (left.sum(1) == kept_of(16, keep, window)).all()
    assert ((pruned == w) | (pruned == 0)).all()
    for first in range(0, 32, channels):
        block = left[first : first + channels]
        assert (block == block[0]).all()
        energy = (w[first : first + channels].reshape(len(block), 16, 16) ** 2).sum((0, 2))
        for start in range(0, 16, window or 16):
            here = slice(start, start + (window or 16))
            gone = energy[here][~block[0][here]]
            assert not gone.size or energy[here][block[0][here]].min() >= gone.max()


def test_n_of_m_counts():
    assert kept_of(16, 0.5, 4) == 8 and kept_of(18, 0.5, 4) == 9 and kept_of(3, 0.5) == 2 and kept_of(5, 0.01) == 1
    assert kept_of(10, 0.25, 4) == 2 + 1


def test_ragged_matrices_are_pruned_too():
    w = np.random.default_rng(2).standard_normal((5, 70)).astype(np.float32)
    pruned = prune(w, 32, 0.5, channels=4)
    assert pruned.shape == w.shape and ((pruned == w) | (pruned == 0)).all() and (pruned == 0).any()
    assert (prune(w, 32, 1.0) == w).all()
