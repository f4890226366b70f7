"""The embedded model: tokenizer and held-out loss."""

import numpy as np

from wordline.compiler.model import load_model
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.quantize import dequantize, quantize
from wordline.rtl.config import TypesConfig
from wordline.sim.evaluate import held_out_accuracy, nats_per_token
from wordline.sim.reference import float_logits


def test_tokenizer():
    tokenizer = load_model("austen").tokenizer
    text = "“It is a truth universally acknowledged,” — said Mr. Knightley; naïve £5!\n\nYes."
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("It was a truth").ids == [41, 84, 305, 259, 257, 82, 322, 72]
    assert tokenizer.get_vocab_size() == 512


def test_held_out_loss():
    # Trained in torch to 2.2449 nats per token on all held-out text; the first 2000 characters are easier.
    model = load_model("austen")
    text = (model.folder / "heldout.txt").read_text()[:2000]
    ids = np.array(model.tokenizer.encode(text).ids)
    losses = [nats_per_token(float_logits(model, ids[i : i + 256]), ids[i : i + 256]).mean()
              for i in range(0, len(ids) - 255, 256)]
    assert abs(np.mean(losses) / 2.1322 - 1) < 0.005


def test_ternary_sibling():
    # Trained to 2.3811 nats per token on all held-out text with float activations.
    model = load_model("austen_ternary")
    for name in model.tensors:
        w = model.tensors[name]
        if w.ndim == 2 and name.startswith("model.layers."):
            assert len(np.unique(w)) == 3
            back = dequantize(quantize(w, WEIGHT_TYPES["ternary"]))
            assert np.abs(back - w).max() < 1e-6 * np.abs(w).max()  # "ternary" reproduces them
    text = (model.folder / "heldout.txt").read_text()[:2000]
    ids = np.array(model.tokenizer.encode(text).ids)
    losses = [nats_per_token(float_logits(model, ids[i : i + 256]), ids[i : i + 256]).mean()
              for i in range(0, len(ids) - 255, 256)]
    assert abs(np.mean(losses) / 2.2747 - 1) < 0.005
    accuracy = held_out_accuracy(model, TypesConfig(weights="ternary", head="int8", group_size=0), windows=1)
    assert abs(accuracy.relative - 1) < 0.02 and accuracy.top1_agreement > 0.9
