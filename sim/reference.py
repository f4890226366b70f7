"""The float model: every architecture of `ModelConfig`, unquantised, in double precision."""

import math
from collections.abc import Callable

import numpy as np

from wordline.compiler.architecture import ModelConfig, lower_bounds, rope_frequencies
from wordline.compiler.model import Model

_erf = np.vectorize(math.erf, otypes=[np.float64])


def activation(name: str, x: np.ndarray) -> np.ndarray:
    """The activation functions of `ModelConfig.activation`, in float64."""
    if name == "silu":
        with np.errstate(over="ignore"):  # 1 / infinity is the right limit
            return x / (1 + np.exp(-x))
    if name == "gelu":
        return x / 2 * (1 + _erf(x / math.sqrt(2)))
    if name == "gelu_tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    positive = np.maximum(x, 0)
    return positive if name == "relu" else positive * positive


def rope_angles(c: ModelConfig, layer: int, n: int) -> np.ndarray:
    """float64[n, head_dim / 2]: the angles of RoPE in a layer, of positions 0 to n - 1."""
    local = bool(c.rope_local_theta) and layer in c.local_layers
    return np.arange(n)[:, None] * rope_frequencies(c, local=local)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """Rows rounded to integers of `bits` bits, the largest magnitude to the largest integer; 0 bits: as they are."""
    if not bits:
        return x
    scale = (2 ** (bits - 1) - 1) / np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
    return np.asarray(np.rint(x * scale) / scale)


class _Reference:
    """One sequence of `n` tokens through one model."""

    def __init__(self, model: Model, n: int, observe: Callable[[str, np.ndarray], None] | None = None, acts: int = 0):
        self.model, self.c, self.n, self.observe, self.acts = model, model.config, n, observe, acts

    def tensor(self, name: str) -> np.ndarray:
        return self.model.tensors[name].astype(np.float64)

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        if self.observe is not None:
            self.observe(name, x)
        x = rounded(x, self.acts)
        y = x @ self.tensor(f"{name}.weight").T
        return y + self.tensor(f"{name}.bias") if f"{name}.bias" in self.model.tensors else y

    def rms(self, x: np.ndarray, name: str) -> np.ndarray:
        gain = self.c.norm_offset + self.tensor(f"{name}.weight")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c.norm_eps) * gain

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        if self.c.norm == "rms":
            return self.rms(x, name)
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        return (centred / np.sqrt(variance + self.c.norm_eps) * (self.c.norm_offset + self.tensor(f"{name}.weight"))
                + self.tensor(f"{name}.bias"))

    def attention(self, h: np.ndarray, i: int) -> np.ndarray:
        """float64[n, width]: what a layer's attention adds, of its normed input [n, width]."""
        c, n, at = self.c, self.n, f"model.layers.{i}.self_attn."

        def heads(name: str, count: int) -> np.ndarray:
            """[count, n, head_dim]"""
            x = self.linear(h, f"{at}{name}_proj").reshape(n, count, c.head_dim).transpose(1, 0, 2)
            if name == "v":
                return x
            if c.qk_norm:
                x = self.rms(x, f"{at}{name}_norm")
            if c.positions == "rope":
                angle = rope_angles(c, i, n)
                cos, sin = np.cos(angle), np.sin(angle)
                a, b = np.split(x, 2, -1)
                x = np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
            return x

        group = c.heads // c.kv_heads
        q, k, v = heads("q", c.heads), heads("k", c.kv_heads).repeat(group, 0), heads("v", c.kv_heads).repeat(group, 0)
        s = q @ k.transpose(0, 2, 1) * c.score_scale + np.triu(np.full((n, n), -np.inf), 1)
        if window := c.window(i):
            s += np.tril(np.full((n, n), -np.inf), -window)
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        y = (p @ v).transpose(1, 0, 2).reshape(n, -1)
        if c.sub_norms:
            y = self.rms(y, f"{at}attn_sub_norm")
        return self.linear(y, f"{at}o_proj")

    def recurrence(self, h: np.ndarray, i: int) -> np.ndarray:
        """float64[n, width]: what the recurrence of MatMul-free LM adds, of a layer's normed input."""
        c, at = self.c, f"model.layers.{i}.self_attn."
        source, forget, gate = (self.bitlinear(h, f"{at}{name}_proj") for name in "ifg")
        with np.errstate(over="ignore"):
            forget = 1 / (1 + np.exp(-forget))
        if c.lower_bounds:
            bound = lower_bounds(self.tensor("model.lower_bounds"))[i]
            forget = bound + (1 - bound) * forget
        state, states = np.zeros(c.attention), []
        for f, x in zip(forget, activation("silu", source), strict=True):
            state = f * state + (1 - f) * x
            states.append(state)
        y = self.rms(gate, f"{at}g_norm") * activation("silu", np.array(states))
        return self.linear(self.rms(y, f"{at}attn_sub_norm"), f"{at}o_proj")

    def bitlinear(self, x: np.ndarray, name: str) -> np.ndarray:
        """A linear layer behind the norm that it has of its own, if the model's have."""
        return self.linear(self.rms(x, f"{name}.norm") if self.c.linear_norms else x, name)

    def mlp(self, h: np.ndarray, i: int) -> np.ndarray:
        """float64[n, width]: what a layer's MLP adds, of its normed input."""
        c, at = self.c, f"model.layers.{i}.mlp."
        if c.linear_norms:  # one for both
            h = self.rms(h, f"{at}gate_proj.norm")
        if c.mlp == "gated":
            y = activation(c.activation, self.linear(h, f"{at}gate_proj")) * self.linear(h, f"{at}up_proj")
        else:
            y = activation(c.activation, self.linear(h, f"{at}up_proj"))
        if c.sub_norms:
            y = self.rms(y, f"{at}ffn_sub_norm")
        return self.linear(y, f"{at}down_proj")

    def layer(self, x: np.ndarray, i: int) -> np.ndarray:
        c, at = self.c, f"model.layers.{i}."
        mix = self.recurrence if c.mixer == "mlgru" else self.attention
        y = mix(self.norm(x, f"{at}input_layernorm"), i)
        x = x + (self.norm(y, f"{at}post_attention_layernorm") if c.post_norms else y)
        y = self.mlp(self.norm(x, f"{at}{c.mlp_norm}"), i)
        return x + (self.norm(y, f"{at}post_feedforward_layernorm") if c.post_norms else y)


def float_logits(model: Model, ids: np.ndarray, *, observe: Callable[[str, np.ndarray], None] | None = None,
                 head: bool = True, acts: int = 0) -> np.ndarray:
    """float64[T, vocab]: the unquantised model, in double precision, for token ids [T]. `observe` is told the inputs
    [T, K] of every matrix by its tensor's name; without `head`, what comes out is the last norm's. With `acts` the
    inputs of linear layers are rounded to so many bits, as BitNet's and MatMul-free LM's are (8)."""
    c, n = model.config, len(ids)
    reference = _Reference(model, n, observe, acts)
    x = model.embedding[ids].astype(np.float64) * c.embedding_scale
    if c.positions == "learned":
        x = x + reference.tensor("model.embed_positions.weight")[c.position_offset : c.position_offset + n]
    for i in range(c.layers):
        x = reference.layer(x, i)
    x = reference.norm(x, "model.norm")
    if c.linear_norms:
        x = rounded(reference.rms(x, "lm_head.norm"), acts)
    return x @ model.head.T.astype(np.float64) if head else x
