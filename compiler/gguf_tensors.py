"""The tensors of a GGUF file under the names of `architecture.expected_shapes`.

GGUF names them alike for all architectures. Two things are undone: the rows of Llama's queries and keys lie with the
two halves of a head interleaved (for a RoPE that turns neighbours), and GPT-2 has query, key and value as one. BitNet's
matrices may have a scale beside them, a tensor of one number.
"""

import numpy as np

from wordline.compiler.architecture import ModelConfig, ModelError, expected_shapes
from wordline.compiler.gguf_file import GgufFile

_MODULES = {
    "model.embed_tokens": "token_embd", "model.embed_positions": "position_embd", "model.norm": "output_norm",
    "lm_head": "output", "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "self_attn.attn_sub_norm": "attn_sub_norm", "mlp.ffn_sub_norm": "ffn_sub_norm",
}
#: Tensors that are read elsewhere or that change nothing.
_OTHERS = {"rope_freqs.weight"}
_FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def _name(c: ModelConfig, kind: str, name: str) -> str:
    """model.layers.3.mlp.up_proj.weight -> blk.3.ffn_up.weight"""
    module, _, suffix = name.rpartition(".")
    norms = {c.mlp_norm: "ffn_norm"} | ({"post_attention_layernorm": "post_attention_norm",
                                         "post_feedforward_layernorm": "post_ffw_norm"} if c.post_norms else {})
    prefix = ""
    if module.startswith("model.layers."):
        number, _, module = module.removeprefix("model.layers.").partition(".")
        prefix = f"blk.{number}."
    if kind == "gpt2" and module in _FUSED:
        return f"{prefix}attn_qkv.{suffix}"
    return f"{prefix}{(_MODULES | norms)[module]}.{suffix}"


class GgufTensors:
    """Reads one tensor after the other.

    Raises
    ------
    ModelError
        The file has a tensor that is not understood, so the result could be wrong.
    """

    def __init__(self, file: GgufFile, config: ModelConfig):
        self.file, self.config, self.path = file, config, file.path
        self.kind = file.metadata["general.architecture"]
        self.names = {name: _name(config, self.kind, name) for name in expected_shapes(config)}
        known = set(self.names.values()) | _OTHERS
        if self.kind == "bitnet":
            known |= {_scale(theirs) for name, theirs in self.names.items() if name.endswith("_proj.weight")}
        unknown = sorted(set(file.tensors) - known)
        if unknown:
            raise ModelError(f"{file.path}: tensor {unknown[0]!r} is not understood, so the result could be wrong")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor without reading it; KeyError if it is not there."""
        theirs = self.names[name]
        shape = self.file.tensors[theirs].shape
        # Of three parts of one tensor, each has its share of the rows, if the whole is what it should be.
        fused = theirs.split(".")[-2] == "attn_qkv"
        return (shape[0] // 3, *shape[1:]) if fused and shape[0] % 3 == 0 else shape

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        tensor = self.file.read(self.names[name])
        c, module = self.config, name.rpartition(".")[0]
        for i, part in enumerate(_FUSED):
            if not module.endswith(part):
                continue
            if self.kind == "gpt2":
                return tensor[i * c.width : (i + 1) * c.width]
            if self.kind == "llama" and i < 2:
                return _halves(tensor, c.head_dim)
        scale = _scale(self.names[name])
        if self.kind == "bitnet" and module.endswith("_proj") and scale in self.file.tensors:
            factor = self.file.read(scale).reshape(-1)
            if factor.shape != (1,):
                raise ModelError(f"{self.path}: tensor {scale!r} must be one number, not {factor.size}")
            return tensor * factor
        return tensor


def _scale(name: str) -> str:
    """blk.3.ffn_up.weight -> blk.3.ffn_up.scale"""
    return f"{name.removesuffix('.weight')}.scale"


def _halves(tensor: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads with their two halves interleaved, one half behind the other."""
    heads = len(tensor) // head_dim
    return tensor.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2).reshape(tensor.shape)
