"""Pruning by magnitude, of groups and of single weights."""

import numpy as np
import pytest

from wordline.pe.prune import kept_of, prune, prune_nm, words_kept


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


@pytest.mark.parametrize(("n", "m", "stride", "channels"), [(2, 4, 1, 1), (2, 4, 8, 4), (1, 4, 16, 1), (4, 8, 8, 3)])
def test_of_every_m_weights_the_n_largest_stay(n, m, stride, channels):
    w = np.random.default_rng(3).standard_normal((9, 2 * m * stride)).astype(np.float32)
    pruned = prune_nm(w, n, m, stride=stride, channels=channels)
    assert ((pruned == w) | (pruned == 0)).all()
    for first in range(0, 9, channels):
        block = slice(first, first + channels)
        assert ((pruned[block] != 0) == (pruned[first] != 0)).all()
        for i in range(2 * stride):  # the elements that compete with element i of a window
            compete = i // stride * m * stride + i % stride + stride * np.arange(m)
            there, energy = pruned[first, compete] != 0, (w[block, compete] ** 2).sum(0)
            assert there.sum() == n and energy[there].min() >= energy[~there].max()


def test_rows_that_end_within_a_window_are_pruned_too():
    w = np.random.default_rng(4).standard_normal((5, 21)).astype(np.float32)
    pruned = prune_nm(w, 1, 4, stride=4, channels=2)
    assert pruned.shape == w.shape and (pruned[:, 17:20] == w[:, 17:20]).all()  # they compete with zeros alone
    assert ((pruned[:, [16, 20]] != 0).sum(1) == 1).all() and ((pruned[:, :16] != 0).sum(1) == 4).all()


@pytest.mark.parametrize(("n", "m", "stride", "lanes", "window", "words"), [
    (2, 4, 16, 16, 4, 2), (2, 4, 16, 16, 8, 4), (4, 8, 16, 16, 8, 4), (2, 4, 16, 8, 8, 4), (2, 4, 16, 8, 4, 4),
    (4, 8, 16, 16, 4, 4), (1, 4, 8, 16, 2, 1), (1, 4, 8, 16, 4, 2), (1, 16, 8, 8, 4, 1)])
def test_words_kept(n, m, stride, lanes, window, words):
    """What is promised is enough for any matrix, and for some matrix it is needed."""
    assert words_kept(n, m, stride, lanes=lanes, window=window) == words
    rng, needed = np.random.default_rng(5), 0
    for _ in range(40):
        w = rng.standard_normal((8, 4 * max(m * stride, window * lanes))).astype(np.float32)
        there = prune_nm(w, n, m, stride=stride, channels=8)[0] != 0
        needed = max(needed, there.reshape(-1, window, lanes).sum(1).max())
    assert needed == words


def test_patterns_that_meet_in_a_tile_add_up():
    assert words_kept(1, 4, 8, lanes=8, window=4, patterns=2) == 2
    assert words_kept(2, 4, 8, lanes=8, window=4, patterns=3) == 4
