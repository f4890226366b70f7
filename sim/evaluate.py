"""Accuracy: the float model, and exactly what the accelerator computes, on all positions of a text at once.

`hardware_logits` repeats the compiled program's arithmetic (integers in the matmuls, `float_ref` elsewhere) with
all tokens of a window side by side, which is possible because no number depends on the order of tokens,
tiles or lanes. A test holds it equal to the functional simulator bit for bit.
"""

import math
from dataclasses import dataclass

import numpy as np

from wordline.compiler.model import Model
from wordline.pe.datatypes import WEIGHT_TYPES, act_max
from wordline.pe.quantize import quantize
from wordline.rtl import float_ref as ref
from wordline.rtl.config import TypesConfig
from wordline.rtl.matmul_ref import accumulate

F = np.float32


def float_logits(model: Model, ids: np.ndarray) -> np.ndarray:
    """float64[T, vocab]: the unquantised model, in double precision."""
    c = model.config
    n = len(ids)
    x = model.embedding[ids].astype(np.float64)
    angle = np.arange(n)[:, None] * c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
    cos, sin = np.cos(angle), np.sin(angle)

    def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps) * gain

    def heads(x: np.ndarray, count: int, rotate: bool) -> np.ndarray:
        x = x.reshape(n, count, c.head_dim).transpose(1, 0, 2)
        if not rotate:
            return x
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    mask = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(c.layers):
        def w(name: str, i: int = i) -> np.ndarray:
            return model.layer(i, name).astype(np.float64)

        h = norm(x, w("input_layernorm"))
        q = heads(h @ w("self_attn.q_proj").T, c.heads, True)
        k = heads(h @ w("self_attn.k_proj").T, c.kv_heads, True).repeat(c.heads // c.kv_heads, 0)
        v = heads(h @ w("self_attn.v_proj").T, c.kv_heads, False).repeat(c.heads // c.kv_heads, 0)
        s = q @ k.transpose(0, 2, 1) / math.sqrt(c.head_dim) + mask
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + (p @ v).transpose(1, 0, 2).reshape(n, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        g = h @ w("mlp.gate_proj").T
        x = x + (g / (1 + np.exp(-g)) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return norm(x, model.tensors["model.norm.weight"]) @ model.head.T.astype(np.float64)


def _codes(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of each row and float32 scales [..., 1]."""
    scale = ref.mul(np.abs(x).max(-1, keepdims=True), F(1.0 / act_max(bits)))
    return ref.float_to_int(ref.mul(x, ref.recip(scale)), bits).astype(np.int64), scale


class _Linear:
    """A quantised matrix: integers and channel scales."""

    def __init__(self, weights: np.ndarray, dtype: str, group: int):
        q = quantize(weights, WEIGHT_TYPES[dtype], group)
        self.integers, self.channel = q.integers().astype(np.float64), q.channel_scale

    def __call__(self, x: np.ndarray, bits: int) -> np.ndarray:
        codes, scale = _codes(x, bits)
        return ref.mul(ref.mul(ref.int_to_float(accumulate(codes, self.integers)), scale), self.channel)


class HardwareModel:
    """A model with the datatypes of `types`, computed as the accelerator computes it."""

    def __init__(self, model: Model, types: TypesConfig):
        self.model, self.types = model, types
        c = model.config
        group = types.group_size

        def linear(i: int, *names: str) -> _Linear:
            return _Linear(np.concatenate([model.layer(i, name) for name in names]), types.weights, group)

        self.layers = [(linear(i, *(f"self_attn.{n}_proj" for n in "qkv")), linear(i, "self_attn.o_proj"),
                        linear(i, "mlp.gate_proj", "mlp.up_proj"), linear(i, "mlp.down_proj"))
                       for i in range(c.layers)]
        self.head = _Linear(model.head, types.head_weights, group)
        scale = np.abs(model.embedding).max(1) / F(127)
        self.embedding_scale = np.where(scale > 0, scale, 1).astype(F)[:, None]
        self.embedding = np.clip(np.rint(model.embedding / self.embedding_scale), -127, 127).astype(F)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """float32[T, vocab] for token ids [T]; bit for bit the accelerator's."""
        c, acts, model = self.model.config, self.types.acts, self.model
        kv_bits = WEIGHT_TYPES[self.types.kv].bits
        n = len(ids)
        angle = np.arange(n)[:, None] * c.rope_theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
        cos, sin = np.cos(angle).astype(F)[:, None], np.sin(angle).astype(F)[:, None]
        x = ref.mul(self.embedding_scale[ids], self.embedding[ids])

        def norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
            mean = ref.add(ref.mul(ref.row_sums(ref.mul(x, x))[:, None], F(1.0 / c.width)), F(c.norm_eps))
            return ref.mul(ref.mul(x, ref.rsqrt(mean)), gain)

        for i, (qkv, o, gate_up, down) in enumerate(self.layers):
            y = qkv(norm(x, model.layer(i, "input_layernorm")), acts).reshape(n, -1, c.head_dim)
            turning, v = np.split(y, [c.heads + c.kv_heads], 1)
            a, b = np.split(turning, 2, -1)
            turned = np.concatenate([ref.add(ref.mul(a, cos), -ref.mul(b, sin)),
                                     ref.add(ref.mul(b, cos), ref.mul(a, sin))], -1)
            q, k = np.split(turned, [c.heads], 1)
            k_codes, k_scale = _codes(k, kv_bits)
            v_codes, v_scale = _codes(v, kv_bits)
            heads = []
            for h in range(c.heads):
                kv = h // (c.heads // c.kv_heads)
                heads.append(self._head(q[:, h], k_codes[:, kv], k_scale[:, kv, 0], v_codes[:, kv],
                                        v_scale[:, kv, 0]))
            x = ref.add(x, o(np.concatenate(heads, 1), acts))
            gate, up = np.split(gate_up(norm(x, model.layer(i, "post_attention_layernorm")), acts), 2, 1)
            sigmoid = ref.recip(ref.add(ref.exp2(ref.mul(gate, F(-math.log2(math.e)))), F(1.0)))
            x = ref.add(x, down(ref.mul(ref.mul(sigmoid, gate), up), acts))
        return self.head(norm(x, model.tensors["model.norm.weight"]), acts)

    def _head(self, q: np.ndarray, k_codes: np.ndarray, k_scale: np.ndarray, v_codes: np.ndarray,
              v_scale: np.ndarray) -> np.ndarray:
        n, acts = len(q), self.types.acts
        codes, scale = _codes(q, acts)
        row_scale = ref.mul(scale, F(math.log2(math.e) / math.sqrt(q.shape[1])))
        scores = ref.mul(ref.mul(ref.int_to_float(accumulate(codes, k_codes.astype(np.float64))), row_scale),
                         k_scale)
        seen = np.tril(np.ones((n, n), bool))
        best = np.where(seen, scores, -np.inf).max(1, keepdims=True).astype(F)
        e = np.where(seen, ref.exp2(ref.add(scores, -best)), F(0))
        total = ref.recip(ref.row_sums(e))[:, None]
        codes, scale = _codes(np.where(seen, ref.mul(e, v_scale), F(0)), acts)
        acc = accumulate(codes, v_codes.T.astype(np.float64))
        return ref.mul(ref.int_to_float(acc), ref.mul(scale, total))


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
