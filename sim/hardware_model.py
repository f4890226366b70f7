"""Exactly what the accelerator computes, on all positions of a text at once.

This repeats the compiled program's arithmetic (integers in the matmuls, `float_ref` elsewhere) with
all tokens of a window side by side, which is possible because no number depends on the order of tokens,
tiles or lanes. Tests hold it equal to the functional simulator bit for bit, for every architecture.
"""

import math

import numpy as np

from wordline.compiler import activations
from wordline.compiler.architecture import lower_bounds
from wordline.compiler.image import matrices
from wordline.compiler.model import Model
from wordline.compiler.sealing import SIGN_OF_ZERO
from wordline.compiler.weights import quantised
from wordline.pe.datatypes import WEIGHT_TYPES, act_max
from wordline.pe.quantize import QuantTensor
from wordline.rtl import float_ref as ref
from wordline.rtl.config import TypesConfig
from wordline.rtl.matmul_ref import accumulate_float
from wordline.sim.reference import rope_angles

F = np.float32
_ROWS = 64  # of a head's attention at once


def _codes(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of each row and float32 scales [..., 1]."""
    scale = ref.mul(np.abs(x).max(-1, keepdims=True), F(1.0 / act_max(bits)))
    return ref.float_to_int(ref.mul(x, ref.recip(scale)), bits).astype(np.float64), scale


def _signed_scale(high: np.ndarray, low: np.ndarray, bits: int) -> np.ndarray:
    """`compiler.sealing.Sealing._signed_scale`, of numbers between ``-low`` and ``high``."""
    top = 1 << (bits - 1)
    positive = ref.maximum(ref.mul(high, F(1.0 / (top - 1))), ref.mul(low, F(1.0 / top)))
    negative = ref.maximum(ref.mul(low, F(1.0 / (top - 1))), ref.mul(high, F(1.0 / top)))
    difference = ref.add(ref.add(high, -low), F(SIGN_OF_ZERO))
    sign = ref.mul(difference, ref.recip(ref.maximum(-difference, difference)))
    return ref.mul(sign, ref.maximum(-positive, -negative))


def _sealed(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers of groups of keys [groups, tokens, head_dim], with a scale for each channel [groups, head_dim]."""
    scale = _signed_scale(x.max(1), (-x).max(1), bits)
    return ref.float_to_int(ref.mul(x, ref.recip(scale)[:, None]), 2 * bits).astype(np.float64), scale


def _values(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Integers of values, one scale for each row [...], and one zero point, if the cache has those."""
    if bits >= 8:
        codes, scale = _codes(x, bits)
        return codes, scale[..., 0], None
    top, minus_low = 1 << (bits - 1), (-x).max(-1, keepdims=True)
    scale = ref.mul(ref.add(x.max(-1, keepdims=True), minus_low), F(1.0 / (2 * top - 1)))
    inverse = ref.recip(scale)
    codes = ref.float_to_int(ref.add(ref.mul(x, inverse), ref.add(ref.mul(minus_low, inverse), F(-top))), 2 * bits)
    zero = ref.add(ref.mul(scale, F(top)), -minus_low)
    # The cache has the low bits: between values that differ by rounding alone the sum above may be a few codes off.
    codes = (codes + top & 2 * top - 1) - top
    return codes.astype(np.float64), scale[..., 0], zero[..., 0]


def activation(name: str, x: np.ndarray) -> np.ndarray:
    """The passes of `compiler.activations` for an activation function, on float32."""
    if name == "silu":
        return ref.mul(ref.recip(ref.add(ref.exp2(ref.mul(x, F(-math.log2(math.e)))), F(1))), x)
    if name == "gelu_tanh":
        power = ref.add(ref.mul(ref.mul(x, x), F(activations.GELU_CUBIC)), F(activations.GELU_LINEAR))
        return ref.mul(ref.recip(ref.add(ref.exp2(ref.mul(power, x)), F(1))), x)
    positive = ref.maximum(x, np.zeros((), F))
    if name == "relu":
        return positive
    if name == "relu2":
        return ref.mul(positive, positive)
    size = ref.maximum(x, -x)
    t = ref.recip(ref.add(ref.mul(size, F(activations.ERF_P)), F(1)))
    y = np.full_like(t, activations.ERF_A[4])
    for a in reversed(activations.ERF_A[:4]):
        y = ref.add(ref.mul(y, t), F(a))
    y = ref.mul(ref.mul(y, t), size)
    y = ref.mul(y, ref.exp2(ref.mul(ref.mul(size, size), F(-0.5 * math.log2(math.e)))))
    return ref.add(positive, -y)


class _Linear:
    """A quantised matrix: integers, channel scales, and a bias if there is one."""

    def __init__(self, q: QuantTensor, bias: np.ndarray | None = None):
        self.integers, self.channel, self.bias = q.integers().astype(np.float64), q.channel_scale, bias
        self.largest = float(np.abs(self.integers).max())

    def __call__(self, x: np.ndarray, bits: int) -> np.ndarray:
        codes, scale = _codes(x, bits)
        y = ref.mul(ref.mul(accumulate_float(codes, self.integers, self.largest), scale), self.channel)
        return y if self.bias is None else ref.add(y, self.bias)


class HardwareModel:
    """A model with the datatypes of `types`, computed as the accelerator computes it.

    Parameters
    ----------
    kv_bits : int
        Bits of keys and values; 0 for those of `types.kv`. So widths can be measured that no hardware has.
    scale_bits : int
        Bits of the weights' group scales; 8 in the hardware. What a quantiser has rounded stays as it is.
    like : HardwareModel
        Of the same model, whose embedding and matrices are taken where they would be the same: rounding takes
        longer than running.
    """

    layers: list[dict[str, _Linear]]
    head: _Linear
    embedding: np.ndarray

    def __init__(self, model: Model, types: TypesConfig, *, kv_bits: int = 0, scale_bits: int = 8,
                 like: "HardwareModel | None" = None):
        self.model, self.types, self.scale_bits = model, types, scale_bits
        self.kv_bits = kv_bits or WEIGHT_TYPES[types.kv].bits
        self.c = c = model.config

        def linear(i: int, name: str, parts: tuple[str, ...]) -> _Linear:
            bias = None
            if f"model.layers.{i}.{parts[0]}.bias" in model.tensors:
                bias = np.concatenate([model.layer(i, part, "bias") for part in parts])
            tensors = [f"model.layers.{i}.{part}.weight" for part in parts]
            return _Linear(quantised(model, f"layer {i} {name}", tensors, types.of(name), types,
                                     scale_bits=scale_bits), bias)

        if like is not None and like.scale_bits != scale_bits:
            like = None
        if like is not None and any(getattr(like.types, name) != getattr(types, name) for name in (
                "group_size", "keep", "keep_channels", "keep_window", "nm", "nm_stride", "mixed")):
            like = None
        if like is not None and like.model is model and like.types.weights == types.weights:
            self.layers = like.layers
        else:
            self.layers = [{name: linear(i, name, parts) for name, parts in matrices(c).items()}
                           for i in range(c.layers)]
        if like is not None and like.types.head_weights == types.head_weights and "output head" not in model.quantised:
            self.head = like.head
        else:
            self.head = _Linear(quantised(model, "output head", [model.head_name], types.head_weights, types,
                                          prunes=False, scale_bits=scale_bits))
        self.embedding = model.embedding if like is None else like.embedding

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        """float32[T, width]: the INT8 embedding of tokens, as `compiler.weights.int8_embedding` has it."""
        rows = self.embedding[ids]
        scale = np.abs(rows).max(1, keepdims=True) / F(127)
        scale = np.where(scale > 0, scale, 1).astype(F)
        codes = np.clip(np.rint(rows / scale), -127, 127).astype(F)
        return ref.mul(scale * F(self.c.embedding_scale), codes)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """float32[T, vocab] for token ids [T]; bit for bit the accelerator's.

        Raises
        ------
        ValueError
            More tokens than a sliding window holds, and keys below 8 bits, which the accelerator refuses.
        """
        c, acts = self.c, self.types.acts
        if 0 < c.sliding_window < len(ids) and self.kv_bits < 8:
            raise ValueError(f"{c.name}: {len(ids)} tokens are above its sliding_window = {c.sliding_window}, which "
                             f"keys of {self.kv_bits} bits do not allow")
        x = self._embed(ids)
        if c.positions == "learned":
            table = self.model.tensors["model.embed_positions.weight"]
            x = ref.add(x, table[c.position_offset : c.position_offset + len(ids)])
        for i, layer in enumerate(self.layers):
            at = f"model.layers.{i}."
            mix = self._recurrence if c.mixer == "mlgru" else self._attention
            y = mix(self._norm(x, f"{at}input_layernorm"), i)
            x = ref.add(x, self._rms(y, f"{at}post_attention_layernorm") if c.post_norms else y)
            y = self._norm(x, f"{at}{c.mlp_norm}")
            if c.linear_norms:
                y = self._rms(y, f"{at}mlp.gate_proj.norm")
            y = layer["gate_up"](y, acts)
            if c.mlp == "gated":
                gate, up = np.split(y, 2, 1)
                y = ref.mul(activation(c.activation, gate), up)
            else:
                y = activation(c.activation, y)
            if c.sub_norms:
                y = self._rms(y, f"{at}mlp.ffn_sub_norm")
            y = layer["down"](y, acts)
            x = ref.add(x, self._rms(y, f"{at}post_feedforward_layernorm") if c.post_norms else y)
        x = self._norm(x, "model.norm")
        return self.head(self._rms(x, "lm_head.norm") if c.linear_norms else x, acts)

    def _gain(self, name: str) -> np.ndarray:
        weights = self.model.tensors[f"{name}.weight"]
        return weights + F(self.c.norm_offset) if self.c.norm_offset else weights

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        """x / sqrt(mean(x^2) + eps) along the last axis."""
        n = x.shape[-1]
        mean = ref.add(ref.mul(ref.row_sums(ref.mul(x, x))[..., None], F(1.0 / n)), F(self.c.norm_eps))
        return ref.mul(x, ref.rsqrt(mean))

    def _rms(self, x: np.ndarray, name: str) -> np.ndarray:
        return ref.mul(self._scaled(x), self._gain(name))

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        if self.c.norm == "rms":
            return self._rms(x, name)
        mean = ref.mul(ref.row_sums(x)[..., None], F(1.0 / x.shape[-1]))
        return ref.add(self._rms(ref.add(x, -mean), name), self.model.tensors[f"{name}.bias"])

    def _attention(self, h: np.ndarray, i: int) -> np.ndarray:
        """float32[T, width]: what a layer's attention gives, of its normed input."""
        c, acts, n, at = self.c, self.types.acts, len(h), f"model.layers.{i}.self_attn."
        y = self.layers[i]["qkv"](h, acts).reshape(n, -1, c.head_dim)
        q, k, v = np.split(y, [c.heads, c.heads + c.kv_heads], 1)
        if c.qk_norm:
            q, k = self._rms(q, f"{at}q_norm"), self._rms(k, f"{at}k_norm")
        if c.positions == "rope":
            angle = rope_angles(c, i, n)
            cos, sin = np.cos(angle).astype(F)[:, None], np.sin(angle).astype(F)[:, None]

            def turned(x: np.ndarray) -> np.ndarray:
                a, b = np.split(x, 2, -1)
                return np.concatenate([ref.add(ref.mul(a, cos), -ref.mul(b, sin)),
                                       ref.add(ref.mul(b, cos), ref.mul(a, sin))], -1)

            q, k = turned(q), turned(k)
        codes, scale, zero = _values(v, self.kv_bits)
        keys = [_Keys(k[:, kv], self.kv_bits, self.types.kv_group) for kv in range(c.kv_heads)]
        heads = []
        for h_ in range(c.heads):
            kv = h_ // (c.heads // c.kv_heads)
            heads.append(self._head(q[:, h_], keys[kv], codes[:, kv], scale[:, kv],
                                    None if zero is None else zero[:, kv], c.window(i) or n))
        y = np.concatenate(heads, 1)
        if c.sub_norms:
            y = self._rms(y, f"{at}attn_sub_norm")
        return self.layers[i]["o"](y, acts)

    def _recurrence(self, h: np.ndarray, i: int) -> np.ndarray:
        """float32[T, width]: what `compiler.mlgru` gives, of a layer's normed input."""
        c, at = self.c, f"model.layers.{i}.self_attn."
        x = self._scaled(h)
        source, forget, gate = (self.layers[i][name](ref.mul(x, self._gain(f"{at}{name}_proj.norm")), self.types.acts)
                                for name in "ifg")
        new = activation("silu", source)
        shut = ref.recip(ref.add(ref.exp2(ref.mul(forget, F(math.log2(math.e)))), F(1)))  # 1 - f
        if c.lower_bounds:
            bounds = lower_bounds(self.model.tensors["model.lower_bounds"])
            shut = ref.mul(shut, np.asarray(1 - bounds[i], F))
        new, kept = ref.mul(new, shut), ref.add(-shut, F(1))
        states = np.zeros_like(new)
        for t in range(len(h)):
            states[t] = ref.add(new[t], ref.mul(kept[t], states[t - 1] if t else np.zeros_like(new[0])))
        y = ref.mul(self._rms(gate, f"{at}g_norm"), activation("silu", states))
        return self.layers[i]["o"](self._rms(y, f"{at}attn_sub_norm"), self.types.acts)

    def _head(self, q: np.ndarray, keys: "_Keys", v_codes: np.ndarray, v_scale: np.ndarray,
              v_zero: np.ndarray | None, window: int) -> np.ndarray:
        """float32[T, head_dim]. Rows go some at a time, with the keys up to the last of them; a row sees `window`."""
        acts, top, values = self.types.acts, 1 << (self.kv_bits - 1), v_codes.T
        parts = []
        for first in range(0, len(q), keys.rows):
            last = min(first + keys.rows, len(q))
            scores = keys.scores(q[first:last], first, acts, F(math.log2(math.e) * self.c.score_scale))
            behind = np.arange(first, last)[:, None] - np.arange(last)
            seen = (behind >= 0) & (behind < window)
            best = np.where(seen, scores, -np.inf).max(1, keepdims=True).astype(F)
            e = np.where(seen, ref.exp2(ref.add(scores, -best)), F(0))
            total = ref.recip(ref.row_sums(_ring(e, first, window)))[:, None]
            codes, scale = _codes(np.where(seen, ref.mul(e, v_scale[:last]), F(0)), acts)
            y = ref.mul(accumulate_float(codes, values[:, :last], top), ref.mul(scale, total))
            if v_zero is not None:
                zeros = np.where(seen, ref.mul(e, v_zero[:last]), F(0))
                y = ref.add(y, ref.mul(ref.row_sums(_ring(zeros, first, window))[:, None], total))
            parts.append(y)
        return np.concatenate(parts)


def _ring(e: np.ndarray, first: int, window: int) -> np.ndarray:
    """What the queries from token `first` on have for every token, in the order in which the cache has the tokens:
    behind the window a token takes the place of the one that leaves it."""
    rows, n = e.shape
    if n <= window:
        return e
    last, place = np.arange(first, first + rows)[:, None], np.arange(window)
    newest = last - (last - place) % window  # of a place, before the window is full not yet there
    return np.where(newest >= 0, np.take_along_axis(e, np.maximum(newest, 0), 1), np.zeros((), F))


class _Keys:
    """The keys [T, head_dim] of a head as the cache has them.

    From 8 bits on, every token has a scale. Below, a token sees its own group of `group` tokens at 8 bits, and of the
    groups before what sealing made of them: integers with a scale per channel.

    Attributes
    ----------
    rows : int
        Queries to be taken at a time.
    """

    def __init__(self, k: np.ndarray, bits: int, group: int):
        self.sealed = bits < 8
        self.rows = group if self.sealed else _ROWS
        self.top = act_max(max(bits, 8))
        self.codes, self.scale = _codes(k, max(bits, 8))
        if self.sealed:
            n = (len(k) - 1) // group
            groups = k[: n * group].reshape(n, group, k.shape[1])
            self.sealed_codes, self.channels = _sealed(groups, bits)
            self.largest = np.maximum.accumulate(np.abs(self.channels))

    def scores(self, q: np.ndarray, first: int, acts: int, factor: np.float32) -> np.ndarray:
        """float32[rows, first + rows]: of the queries from token `first` on, times `factor`."""
        codes, scale = _codes(q, acts)
        start = first if self.sealed else 0
        own = slice(start, first + len(q))
        scores = ref.mul(ref.mul(accumulate_float(codes, self.codes[own], self.top), ref.mul(scale, factor)),
                         self.scale[own, 0])
        if start == 0:
            return scores
        # The channels' scales go with the query, whose own scale follows from the largest of them.
        n = first // self.rows
        scale = ref.mul(np.abs(ref.mul(q, self.largest[n - 1])).max(-1, keepdims=True), F(1.0 / act_max(acts)))
        unit = ref.mul(q, ref.recip(scale))
        folded = ref.float_to_int(ref.mul(unit, self.channels[:n, None]), acts).astype(np.float64)
        acc = (folded @ self.sealed_codes[:n].transpose(0, 2, 1)).transpose(1, 0, 2).reshape(len(q), -1)
        return np.concatenate([ref.mul(ref.int_to_float(acc), ref.mul(scale, factor)), scores], 1)
