"""Accuracy: what the quantised model loses against the source model, on the same text, with intervals.

Three measures, for every token of a text: the loss (nats, whose mean is the logarithm of the perplexity), the
Kullback-Leibler divergence of the quantised model's next-token distribution from the source model's, and whether both
find the same token most likely. Neighbouring tokens are not independent, so intervals come from resampling blocks of
them (the moving-block bootstrap of Kuensch, 1989, with blocks that do not overlap).
"""

from dataclasses import dataclass

import numpy as np

from wordline.compiler.model import Model
from wordline.rtl.config import TypesConfig
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.reference import float_logits

BLOCK = 16  # tokens resampled together
SAMPLES = 2000
_ROWS = 4  # positions compared at once: their logits stay in the processor's cache
LEVEL = 0.95


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """float64[T, vocab]: natural logarithms of the softmax."""
    z = logits.astype(np.float64)
    z -= z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def nats_per_token(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Negative log probability of each token after the first."""
    return -log_probabilities(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]


def kl_divergence(source: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """float64[T]: of the distribution of logits `ours` from that of `source`, nats."""
    p, q = log_probabilities(source), log_probabilities(ours)
    return (np.exp(p) * (p - q)).sum(1)


@dataclass(frozen=True)
class Tokens:
    """Measures of every token predicted: float64[n], one behind the other for all windows of a text."""

    source_nats: np.ndarray
    nats: np.ndarray
    kl: np.ndarray
    agree: np.ndarray

    @classmethod
    def compare(cls, source: np.ndarray, ours: np.ndarray, ids: np.ndarray) -> "Tokens":
        """From two sets of logits [T, vocab] on one window; its first token is not predicted."""
        parts = []
        for i in range(0, len(ids) - 1, _ROWS):
            next_ids = ids[i + 1 : i + 1 + _ROWS]
            at = np.arange(len(next_ids)), next_ids
            p, q = log_probabilities(source[: len(ids) - 1][i : i + _ROWS]), log_probabilities(
                ours[: len(ids) - 1][i : i + _ROWS])
            agree = (p.argmax(1) == q.argmax(1)).astype(np.float64)
            parts.append(cls(-p[at], -q[at], (np.exp(p) * (p - q)).sum(1), agree))
        return cls.join(parts)

    @classmethod
    def join(cls, parts: list["Tokens"]) -> "Tokens":
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in _MEASURES))

    def __len__(self) -> int:
        return len(self.kl)


_MEASURES = ("source_nats", "nats", "kl", "agree")


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        return self.low <= other.high and other.low <= self.high


def _samples(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """float64[SAMPLES]: means of resampled blocks. The same blocks for the same length, so that measures of the same
    tokens can be subtracted."""
    n = len(values)
    blocks = -(-n // BLOCK)
    sums = np.add.reduceat(values, np.arange(0, n, BLOCK))
    counts = np.minimum(BLOCK, n - BLOCK * np.arange(blocks))
    chosen = np.random.default_rng(seed).integers(0, blocks, (SAMPLES, blocks))
    return sums[chosen].sum(1) / counts[chosen].sum(1)


def mean_interval(values: np.ndarray, *, exponential: bool = False) -> Interval:
    """The mean, or its exponential, with its interval."""
    low, high = np.quantile(_samples(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    ends = np.array([values.mean(), low, high])
    return Interval(*(float(x) for x in (np.exp(ends) if exponential else ends)))


@dataclass(frozen=True)
class Summary:
    """Figures of one text. `relative` is the quotient of the two perplexities."""

    tokens: int
    source_perplexity: Interval
    perplexity: Interval
    relative: Interval
    kl: Interval
    top1: Interval

    @classmethod
    def of(cls, t: Tokens) -> "Summary":
        return cls(len(t), mean_interval(t.source_nats, exponential=True), mean_interval(t.nats, exponential=True),
                   mean_interval(t.nats - t.source_nats, exponential=True), mean_interval(t.kl), mean_interval(t.agree))


def difference(a: Tokens, b: Tokens) -> Interval:
    """KL divergence of `a` less that of `b`, on the same tokens. An interval around zero is no difference."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} tokens cannot be compared one by one")
    return mean_interval(a.kl - b.kl)


@dataclass(frozen=True)
class Accuracy:
    """Perplexities per token on a text, of the float model and of the accelerator."""

    tokens: int
    float_perplexity: float
    hardware_perplexity: float
    top1_agreement: float

    @property
    def relative(self) -> float:
        return self.hardware_perplexity / self.float_perplexity


def held_out_accuracy(model: Model, types: TypesConfig, *, windows: int = 4, window: int = 0,
                      source: Model | None = None) -> Accuracy:
    """Perplexity on the first `windows` windows of the model's ``heldout.txt``, against that of `source`, the model
    before quantisers changed it."""
    ids = np.array(model.tokenizer.encode((model.folder / "heldout.txt").read_text()).ids)
    window = window or model.config.context
    hardware = HardwareModel(model, types)
    parts = []
    for start in range(0, min(windows * window, len(ids) - window + 1), window):
        part = ids[start : start + window]
        parts.append(Tokens.compare(float_logits(source or model, part), hardware.logits(part), part))
    t = Tokens.join(parts)
    return Accuracy(len(t), float(np.exp(t.source_nats.mean())), float(np.exp(t.nats.mean())), float(t.agree.mean()))
