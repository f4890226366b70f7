"""The embedded model: tokenizer and held-out loss."""

import numpy as np

from wordline.compiler.model import load_model
from wordline.sim.evaluate import nats_per_token
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
