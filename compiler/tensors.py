"""The tensors of a checkpoint under the names of `architecture.expected_shapes`, and as [N, K].

Llama's descendants share its names. GPT-2 has its own, keeps matrices as [K, N] (Conv1D), and query, key and value
as one; OPT has its own names; MatMul-free LM too, with gate and up as one.
"""

from collections.abc import Callable, Mapping

import numpy as np

from wordline.compiler.architecture import ModelConfig

#: Reads one tensor by the name it has in the file; KeyError if it is not there.
Reader = Callable[[str], np.ndarray]

_GPT2 = {
    "model.embed_tokens": "wte", "model.embed_positions": "wpe", "model.norm": "ln_f", "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2", "self_attn.q_proj": "attn.c_attn", "self_attn.k_proj": "attn.c_attn",
    "self_attn.v_proj": "attn.c_attn", "self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_OPT = {
    "model.embed_tokens": "embed_tokens", "model.embed_positions": "embed_positions", "model.norm": "final_layer_norm",
    "input_layernorm": "self_attn_layer_norm", "post_attention_layernorm": "final_layer_norm",
    "self_attn.o_proj": "self_attn.out_proj", "mlp.up_proj": "fc1", "mlp.down_proj": "fc2",
}


_HGRN_BIT = {
    "model.embed_tokens": "model.embeddings", "input_layernorm": "attn_norm", "post_attention_layernorm": "mlp_norm",
    "self_attn.attn_sub_norm": "attn.o_proj.norm", "mlp.ffn_sub_norm": "mlp.down_proj.norm",
    "mlp.up_proj": "mlp.gate_proj", "self_attn.g_norm": "attn.g_norm",
} | {f"self_attn.{name}_proj{norm}": f"attn.{name}_proj{norm}" for name in "ifgo" for norm in ("", ".norm")}


def _split(name: str) -> tuple[int, str, str]:
    """Layer (-1: none), module and kind of tensor: model.layers.3.mlp.up_proj.weight -> 3, mlp.up_proj, weight."""
    module, _, kind = name.rpartition(".")
    if module.startswith("model.layers."):
        number, _, module = module.removeprefix("model.layers.").partition(".")
        return int(number), module, kind
    return -1, module, kind


def _renamed(name: str, modules: Mapping[str, str], layers: str) -> str:
    layer, module, kind = _split(name)
    return f"{f'{layers}.{layer}.' if layer >= 0 else ''}{modules.get(module, module)}.{kind}"


def _first(read: Reader, name: str, prefixes: tuple[str, ...]) -> np.ndarray:
    """A tensor whose name may have one of some prefixes, by what class the checkpoint was saved from."""
    for prefix in prefixes:
        try:
            return read(prefix + name)
        except KeyError:
            continue
    raise KeyError(name)


def _gpt2(c: ModelConfig, name: str, read: Reader) -> np.ndarray:
    if name.startswith("lm_head"):
        return read(name)
    tensor = _first(read, _renamed(name, _GPT2, "h"), ("", "transformer."))
    _, module, _ = _split(name)
    if module.endswith("_proj"):
        tensor = tensor.T
        part = {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}.get(module)
        if part is not None:
            tensor = tensor[part * c.width : (part + 1) * c.width]
    return tensor


def _opt(c: ModelConfig, name: str, read: Reader) -> np.ndarray:
    if name.startswith("lm_head"):
        return read(name)
    return _first(read, _renamed(name, _OPT, "layers"), ("model.decoder.", "decoder."))


def _hgrn_bit(c: ModelConfig, name: str, read: Reader) -> np.ndarray:
    if name == "model.lower_bounds":
        return read(name)
    tensor = read(_renamed(name, _HGRN_BIT, "model.layers"))
    _, module, _ = _split(name)
    if module in ("mlp.gate_proj", "mlp.up_proj") and tensor.shape[0] == 2 * c.ffn:
        return tensor[: c.ffn] if module == "mlp.gate_proj" else tensor[c.ffn :]
    return tensor


def _gemma3_with_images(c: ModelConfig, name: str, read: Reader) -> np.ndarray:
    """The text model of a multimodal file, as saved before and since transformers 5."""
    try:
        return read(f"language_model.{name}")
    except KeyError:
        return read(f"model.language_model.{name.removeprefix('model.')}")


def tensor(model_type: str, c: ModelConfig, name: str, read: Reader) -> np.ndarray:
    """One tensor of `expected_shapes`.

    Raises
    ------
    KeyError
        The file has no such tensor.
    """
    special = {"gpt2": _gpt2, "opt": _opt, "gemma3": _gemma3_with_images, "hgrn_bit": _hgrn_bit}.get(model_type)
    return special(c, name, read) if special else read(name)
