"""Accuracy: perplexity of the float model, and of exactly what the accelerator computes, on the same text."""

from dataclasses import dataclass

import numpy as np

from wordline.compiler.model import Model
from wordline.rtl.config import TypesConfig
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.reference import float_logits


def nats_per_token(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Negative log probability of each token after the first."""
    z = logits[:-1].astype(np.float64)
    z -= z.max(1, keepdims=True)
    return np.log(np.exp(z).sum(1)) - z[np.arange(len(ids) - 1), ids[1:]]


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


def held_out_accuracy(model: Model, types: TypesConfig, *, windows: int = 4, window: int = 0) -> Accuracy:
    """Perplexity on the first `windows` windows of the model's ``heldout.txt``."""
    ids = np.array(model.tokenizer.encode((model.folder / "heldout.txt").read_text()).ids)
    window = window or model.config.context
    hardware = HardwareModel(model, types)
    losses: list[tuple[np.ndarray, np.ndarray]] = []
    agree = []
    for start in range(0, min(windows * window, len(ids) - window + 1), window):
        part = ids[start : start + window]
        exact, ours = float_logits(model, part), hardware.logits(part)
        losses.append((nats_per_token(exact, part), nats_per_token(ours, part)))
        agree.append((exact.argmax(1) == ours.argmax(1)).mean())
    exact_loss, our_loss = (np.concatenate(x) for x in zip(*losses, strict=True))
    return Accuracy(len(exact_loss), float(np.exp(exact_loss.mean())), float(np.exp(our_loss.mean())),
                    float(np.mean(agree)))
