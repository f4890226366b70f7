"""What distinguishes one decoder-only model from another: plain fields, and the tensors that follow from them."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

#: What no model comes near; bounds the work that a damaged file can cause.
_LARGEST = {"layers": 4096, "heads": 4096, "kv_heads": 4096, "head_dim": 65536}

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


class ModelError(ValueError):
    """A model that cannot be read or that Wordline does not support; says which file and field."""


@dataclass(frozen=True)
class ModelConfig:
    """Shape and mathematics of a decoder-only model. The defaults are Llama's.

    Parameters
    ----------
    mixer : str
        What brings tokens together: "attention", or "mlgru", the gated linear recurrence of MatMul-free LM (Zhu et al.,
        arXiv 2406.02528), of which `head_dim` times `heads` is the size of the state.
    lower_bounds : bool
        Forget gates of "mlgru" are kept above a bound that every layer has for every channel.
    linear_norms : bool
        Every linear layer has an RMSNorm of its own in front, besides the layer's norms (MatMul-free LM's BitLinear);
        those of o and down are what `sub_norms` says.
    norm : str
        "rms", or "layer": mean taken off, and a bias.
    norm_offset : float
        The gain of a norm is this plus the stored weight (Gemma: 1).
    mlp : str
        "gated": ``down(activation(gate(x)) * up(x))``; "plain": ``down(activation(up(x)))``.
    activation : str
        "silu", "gelu" (with erf), "gelu_tanh", "relu", or "relu2", relu squared (BitNet).
    qkv_bias, o_bias, mlp_bias : bool
        Which linear layers have a bias.
    qk_norm : bool
        RMSNorm of every head of queries and keys, before RoPE (Qwen3, Gemma 3).
    positions : str
        "rope", or "learned": a row of a table is added to the embedding; "none" with a recurrence.
    position_offset : int
        Row of position 0 in that table (OPT: 2).
    sub_norms : bool
        RMSNorm of the heads' output before o, and of the hidden units before down (BitNet).
    post_norms : bool
        RMSNorm of what attention and MLP give, before it is added to the residual (Gemma 3).
    embedding_scale : float
        Factor of the embedding (Gemma: sqrt(width)).
    attention_scale : float
        Factor of the scores; 0 for 1 / sqrt(head_dim).
    sliding_window : int
        Positions that attention sees, in `local_layers` or, if there are none, in every layer; 0 for all.
    rope_local_theta : float
        The base of RoPE in `local_layers` (Gemma 3); 0 for the same as in the others.
    rope_factor : float
        RoPE turns this many times more slowly, though not in `local_layers`.
    rope_bands : (low, high, context), or nothing
        Only frequencies below `low` turns in `context` positions become that slow, those above `high` stay, and between
        them is a gradual transition (Llama 3.1).
    rope_divisors : head_dim / 2 numbers, or nothing
        What each frequency is divided by: the bands again, as a GGUF file has them.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    tied: bool
    eos: int = -1
    mixer: Literal["attention", "mlgru"] = "attention"
    lower_bounds: bool = False
    linear_norms: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    mlp: Literal["gated", "plain"] = "gated"
    activation: Activation = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    positions: Literal["rope", "learned", "none"] = "rope"
    position_offset: int = 0
    sub_norms: bool = False
    post_norms: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    sliding_window: int = 0
    rope_local_theta: float = 0.0
    local_layers: tuple[int, ...] = ()
    rope_factor: float = 1.0
    rope_bands: tuple[float, ...] = ()
    rope_divisors: tuple[float, ...] = ()

    def check(self, where: str) -> None:
        """Raises ModelError, naming the file `where`, if these cannot be the sizes of a transformer."""
        for name in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST.get(name, 1 << 24):
                raise ModelError(f"{where}: {name} = {value!r} is no size that a model has")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ModelError(f"{where}: {self.heads} heads of {self.head_dim} cannot share {self.kv_heads} "
                             "key-value heads")
        if not 0 < self.norm_eps < 1 or not 0 <= self.rope_theta < math.inf:
            raise ModelError(f"{where}: norm_eps = {self.norm_eps!r} and rope_theta = {self.rope_theta!r}: must be "
                             "positive numbers, the first below 1")
        if self.mixer == "mlgru" and not (self.linear_norms and self.sub_norms and self.norm == "rms"
                                          and self.mlp == "gated" and self.positions == "none" and not self.post_norms
                                          and not (self.qkv_bias or self.o_bias or self.mlp_bias or self.qk_norm)):
            raise ModelError(f"{where}: the recurrence goes with RMSNorm before every linear layer, a gated MLP, no "
                             "positions and no biases only")
        if self.rope_local_theta < 0 or not self.rope_factor > 0 or self.sliding_window < 0:
            raise ModelError(f"{where}: rope_local_theta = {self.rope_local_theta!r}, rope_factor = "
                             f"{self.rope_factor!r} and sliding_window = {self.sliding_window!r} must be positive")

    @property
    def qkv(self) -> int:
        """Channels of queries, keys and values together."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def attention(self) -> int:
        """Channels of all heads, or of the recurrence's state, which o takes."""
        return self.heads * self.head_dim

    @property
    def score_scale(self) -> float:
        return self.attention_scale or 1 / math.sqrt(self.head_dim)

    def window(self, layer: int) -> int:
        """Positions that attention sees in a layer; 0 for all."""
        return self.sliding_window if layer in self.local_layers or not self.local_layers else 0

    @property
    def mlp_norm(self) -> str:
        """The norm before the MLP. Llama calls it what Gemma 3 calls its norm after attention."""
        return "pre_feedforward_layernorm" if self.post_norms else "post_attention_layernorm"

    @property
    def mixer_parts(self) -> tuple[str, ...]:
        """The projections from the residual into what brings tokens together."""
        return tuple(f"self_attn.{name}_proj" for name in ("ifg" if self.mixer == "mlgru" else "qkv"))

    @property
    def up_parts(self) -> tuple[str, ...]:
        """The projections from the residual into the MLP, in the order in which the array computes them."""
        return ("mlp.gate_proj", "mlp.up_proj") if self.mlp == "gated" else ("mlp.up_proj",)

    @property
    def parameters(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(shape) for shape in expected_shapes(self).values())


def rope_frequencies(c: ModelConfig, *, local: bool = False) -> np.ndarray:
    """float64[head_dim / 2]: radians by which RoPE turns from one position to the next."""
    theta = c.rope_local_theta if local else c.rope_theta
    frequency = theta ** (-np.arange(0, c.head_dim, 2) / c.head_dim)
    if c.rope_divisors and not local:
        return frequency / c.rope_divisors
    if local or c.rope_factor == 1:
        return frequency
    if not c.rope_bands:
        return frequency / c.rope_factor
    low, high, context = c.rope_bands
    fast = np.clip((context * frequency / (2 * math.pi) - low) / (high - low), 0, 1)
    return frequency * (fast + (1 - fast) / c.rope_factor)


def expected_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor the architecture has, and its shape."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab, c.width),
                                          "model.norm.weight": (c.width,)}
    if c.norm == "layer":
        shapes["model.norm.bias"] = (c.width,)
    if c.positions == "learned":
        shapes["model.embed_positions.weight"] = (c.context + c.position_offset, c.width)
    if not c.tied:
        shapes["lm_head.weight"] = (c.vocab, c.width)
    if c.linear_norms:
        shapes["lm_head.norm.weight"] = (c.width,)
    if c.lower_bounds:
        shapes["model.lower_bounds"] = (c.layers, c.attention)
    for i in range(c.layers):
        shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer_shapes(c).items()}
    return shapes


def lower_bounds(raw: np.ndarray) -> np.ndarray:
    """float64[layers, channels]: below what no forget gate falls, of the stored numbers. Their softmax over the layers,
    summed over the layers up to this one, without the first: 0 in the first layer, and growing (HGRN, Qin et al.,
    arXiv 2311.04823)."""
    shares = np.exp(raw.astype(np.float64) - raw.max(0))
    shares /= shares.sum(0)
    return np.asarray(shares.cumsum(0) - shares[0])


def layer_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer under the names that Hugging Face gives Llama's, Qwen's, Gemma's and BitNet's, and their
    shapes; a matrix is [N, K]."""
    kv = c.kv_heads * c.head_dim if c.mixer == "attention" else c.attention
    matrices = {part: (n, c.width) for part, n in zip(c.mixer_parts, (c.attention, kv, kv), strict=True)}
    matrices |= {"self_attn.o_proj": (c.width, c.attention)}
    matrices |= dict.fromkeys(c.up_parts, (c.ffn, c.width)) | {"mlp.down_proj": (c.width, c.ffn)}
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in matrices.items()}
    for name, (n, _) in matrices.items():
        if c.mlp_bias if name.startswith("mlp") else c.o_bias if name == "self_attn.o_proj" else c.qkv_bias:
            shapes[f"{name}.bias"] = (n,)
    norms = {"input_layernorm": c.width, c.mlp_norm: c.width}
    if c.post_norms:
        norms |= {"post_attention_layernorm": c.width, "post_feedforward_layernorm": c.width}
    for name, n in norms.items():
        shapes[f"{name}.weight"] = (n,)
        if c.norm == "layer":
            shapes[f"{name}.bias"] = (n,)
    if c.qk_norm:
        shapes |= {"self_attn.q_norm.weight": (c.head_dim,), "self_attn.k_norm.weight": (c.head_dim,)}
    if c.mixer == "mlgru":
        shapes["self_attn.g_norm.weight"] = (c.attention,)
    if c.linear_norms:
        shapes |= {f"{part}.norm.weight": (c.width,) for part in (*c.mixer_parts, "mlp.gate_proj")}
    if c.sub_norms:
        shapes |= {"self_attn.attn_sub_norm.weight": (c.attention,), "mlp.ffn_sub_norm.weight": (c.ffn,)}
    return shapes
