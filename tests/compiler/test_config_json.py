"""config.json of every architecture, and the names of its tensors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wordline.compiler.architecture import (
    ModelConfig,
    ModelError,
    expected_shapes,
    rope_frequencies,
)
from wordline.compiler.config_json import ARCHITECTURES, read_config
from wordline.compiler.model import find_model, load_model
from wordline.compiler.shapes import SHAPES, load_shape

# As published, without what is ignored anyway.
_LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
          "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": None, "hidden_act": "silu",
          "attention_bias": False, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": 128001}
PUBLISHED: dict[str, dict[str, object]] = {
    "llama-3-8b": _LLAMA,
    "mistral-7b": {
        "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "sliding_window": 4096,
        "tie_word_embeddings": False},
    "qwen2.5-0.5b": {
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2, "intermediate_size": 4864, "vocab_size": 151936, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu", "sliding_window": 32768,
        "use_sliding_window": False, "max_window_layers": 24, "use_mrope": False, "tie_word_embeddings": True},
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "head_dim": 128,
        "num_key_value_heads": 8, "intermediate_size": 3072, "vocab_size": 151936, "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000, "rope_scaling": None, "hidden_act": "silu",
        "attention_bias": False, "sliding_window": None, "use_sliding_window": False, "max_window_layers": 28,
        "tie_word_embeddings": True},
    "gemma-3-270m": {
        "model_type": "gemma3_text", "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 2048, "vocab_size": 262144,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0, "rope_scaling": None, "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 512,
        "_sliding_window_pattern": 6, "use_bidirectional_attention": False, "attention_bias": False,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3},
    "gpt2": {
        "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "n_ctx": 1024,
        "vocab_size": 50257, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new", "resid_pdrop": 0.1,
        "task_specific_params": {"text-generation": {}}, "summary_type": "cls_index", "eos_token_id": 50256},
    "opt-6.7b": {
        "model_type": "opt", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 16384,
        "vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 4096,
        "activation_function": "relu", "do_layer_norm_before": True, "_remove_final_layer_norm": False,
        "layerdrop": 0.0, "prefix": "</s>"},
    "bitnet-2b4t": {
        "model_type": "bitnet", "hidden_size": 2560, "num_hidden_layers": 30, "num_attention_heads": 20,
        "num_key_value_heads": 5, "intermediate_size": 6912, "vocab_size": 128256, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "relu2", "tie_word_embeddings": True,
        "quantization_config": {"quant_method": "bitnet"}},
    "mmfreelm-370m": {
        "model_type": "hgrn_bit", "hidden_size": 1024, "num_hidden_layers": 24, "num_heads": 1, "expand_ratio": 1,
        "hidden_ratio": 4, "intermediate_size": None, "hidden_act": "swish", "attn_mode": "fused_recurrent",
        "use_short_conv": False, "conv_size": 4, "share_conv_kernel": True, "use_lower_bound": True,
        "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "fuse_cross_entropy": False},
}


def write(folder: Path, fields: dict[str, object]) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_fields_give_the_preset(name, tmp_path):
    config = load_shape(write(tmp_path, PUBLISHED[name])).config
    assert replace(config, name=name, eos=-1) == SHAPES[name]


def test_every_architecture_is_tried():
    assert {fields["model_type"] for fields in PUBLISHED.values()} | {"gemma3"} == set(ARCHITECTURES)


def test_the_text_model_of_a_multimodal_gemma(tmp_path):
    """google/gemma-3-4b-it: 3.88 B parameters without the vision model."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
    fields: dict[str, object] = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152},
                                 "mm_tokens_per_image": 256}
    config = read_config(write(tmp_path, fields))
    assert config.parameters == pytest.approx(3.88e9, rel=0.01)
    assert (config.rope_factor, config.rope_bands, config.sliding_window, config.heads) == (8.0, (), 1024, 8)
    with pytest.raises(ModelError, match="field 'num_experts' is not understood"):
        read_config(write(tmp_path, fields | {"text_config": text | {"num_experts": 4}}))


def test_transformers_5_keeps_rope_in_rope_parameters(tmp_path):
    fields = {k: v for k, v in _LLAMA.items() if k not in ("rope_theta", "rope_scaling")}
    fields["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "default"}
    assert read_config(write(tmp_path, fields)).rope_theta == 5e5
    gemma = {k: v for k, v in PUBLISHED["gemma-3-270m"].items() if k not in ("rope_theta", "rope_local_base_freq")}
    gemma["rope_parameters"] = {"full_attention": {"rope_theta": 2e6, "rope_type": "default"},
                                "sliding_attention": {"rope_theta": 3e4, "rope_type": "default"}}
    config = read_config(write(tmp_path, gemma))
    assert (config.rope_theta, config.rope_local_theta) == (2e6, 3e4)


def test_rope_scaling(tmp_path):
    """meta-llama/Llama-3.2-1B."""
    scaling = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "rope_type": "llama3",
               "original_max_position_embeddings": 8192}
    config = read_config(write(tmp_path, _LLAMA | {"rope_scaling": scaling}))
    assert (config.rope_factor, config.rope_bands) == (32.0, (1.0, 4.0, 8192.0))
    frequencies, plain = rope_frequencies(config), rope_frequencies(replace(config, rope_factor=1.0))
    turns = 8192 * plain / (2 * np.pi)
    assert np.allclose(frequencies[turns > 4], plain[turns > 4])
    assert np.allclose(frequencies[turns < 1], plain[turns < 1] / 32)
    assert (np.diff(frequencies) < 0).all()
    linear = read_config(write(tmp_path, _LLAMA | {"rope_scaling": {"type": "linear", "factor": 4}}))
    assert np.allclose(rope_frequencies(linear), plain / 4)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("llama-3-8b", {"model_type": "mamba"}, "model_type is 'mamba'; supported: llama, mistral"),
    ("llama-3-8b", {"hidden_act": "tanh"}, "hidden_act = 'tanh' is not supported"),
    ("llama-3-8b", {"rope_scaling": {"type": "yarn"}}, "rope_scaling = .* is not supported, only RoPE"),
    ("llama-3-8b", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing in rope"),
    ("llama-3-8b", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "is not supported, only RoPE of whole heads"),
    ("llama-3-8b", {"num_experts": 8}, "field 'num_experts' is not understood"),
    ("llama-3-8b", {"hidden_size": ...}, "hidden_size is missing"),
    ("llama-3-8b", {"num_key_value_heads": 5}, "cannot share 5 key-value heads"),
    ("llama-3-8b", {"sliding_window": 4096}, "field 'sliding_window' is not understood"),
    ("gemma-3-270m", {"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is not supported"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True is not supported"),
    ("opt-6.7b", {"word_embed_proj_dim": 512}, "word_embed_proj_dim = 512 is not supported, only 4096"),
    ("opt-6.7b", {"do_layer_norm_before": False}, "do_layer_norm_before = False is not supported"),
    ("bitnet-2b4t", {"attention_bias": True}, "attention_bias = True is not supported"),
])
def test_what_is_not_understood_is_refused_by_name(name, change, message, tmp_path):
    fields = {k: v for k, v in (PUBLISHED[name] | change).items() if v is not ...}
    with pytest.raises(ModelError, match=message):
        read_config(write(tmp_path, fields))


def test_a_file_that_is_no_json_object_is_refused(tmp_path):
    for text, message in [("{", "Expecting"), ("[]", "model_type is"), ("{}", "model_type is None")]:
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=message):
            read_config(tmp_path)


def _checkpoint(folder: Path, fields: dict[str, object], tensors: dict[str, np.ndarray]) -> Path:
    write(folder, fields)
    (folder / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    return folder


def _random(c: ModelConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(c).items()}


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_weights_are_transposed_and_split(prefix, tmp_path):
    fields: dict[str, object] = {"model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 16,
                                 "vocab_size": 512}
    ours = _random(read_config(write(tmp_path, fields)))
    theirs = {f"{prefix}wte.weight": ours["model.embed_tokens.weight"],
              f"{prefix}wpe.weight": ours["model.embed_positions.weight"]}
    theirs |= {f"{prefix}ln_f.{kind}": ours[f"model.norm.{kind}"] for kind in ("weight", "bias")}
    for i in range(2):
        at, to = f"model.layers.{i}.", f"{prefix}h.{i}."
        for kind in ("weight", "bias"):
            qkv = np.concatenate([ours[f"{at}self_attn.{x}_proj.{kind}"] for x in "qkv"])
            theirs |= {f"{to}attn.c_attn.{kind}": qkv.T,
                       f"{to}attn.c_proj.{kind}": ours[f"{at}self_attn.o_proj.{kind}"].T,
                       f"{to}mlp.c_fc.{kind}": ours[f"{at}mlp.up_proj.{kind}"].T,
                       f"{to}mlp.c_proj.{kind}": ours[f"{at}mlp.down_proj.{kind}"].T,
                       f"{to}ln_1.{kind}": ours[f"{at}input_layernorm.{kind}"],
                       f"{to}ln_2.{kind}": ours[f"{at}post_attention_layernorm.{kind}"]}
    model = load_model(_checkpoint(tmp_path, fields, theirs))
    assert model.tensors.keys() == ours.keys()
    assert all(np.array_equal(model.tensors[name], ours[name]) for name in ours)
    del theirs[f"{prefix}h.1.mlp.c_fc.bias"]
    with pytest.raises(ModelError, match="tensor h.1.mlp.c_fc.bias is missing"):
        load_model(_checkpoint(tmp_path, fields, theirs))


def test_opt_weights_have_their_own_names(tmp_path):
    fields: dict[str, object] = {
        "model_type": "opt", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 16,
        "vocab_size": 512, "max_position_embeddings": 16, "word_embed_proj_dim": 8}
    ours = _random(read_config(write(tmp_path, fields)))
    assert ours["model.embed_positions.weight"].shape == (18, 8)
    names = {"model.layers.0.": "model.decoder.layers.0.", "self_attn.o_proj": "self_attn.out_proj",
             "input_layernorm": "self_attn_layer_norm", "post_attention_layernorm": "final_layer_norm",
             "mlp.up_proj": "fc1", "mlp.down_proj": "fc2", "model.norm": "model.decoder.final_layer_norm",
             "model.embed": "model.decoder.embed"}
    theirs = {}
    for name, x in ours.items():
        for old, new in names.items():
            name = name.replace(old, new)
        theirs[name] = x
    model = load_model(_checkpoint(tmp_path, fields, theirs))
    assert all(np.array_equal(model.tensors[name], ours[name]) for name in ours)


def test_bfloat16_in_several_files(tmp_path):
    fields: dict[str, object] = {
        "model_type": "qwen2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "vocab_size": 512, "max_position_embeddings": 16, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True}
    ours = _random(read_config(write(tmp_path, fields)))
    halves = {name: (x.view(np.uint32) >> 16).astype("<u2") for name, x in ours.items()}
    index = {}
    for number, names in enumerate(np.array_split(list(halves), 2)):
        header, data = {}, b""
        for name in names:
            header[str(name)] = {"dtype": "BF16", "shape": halves[name].shape,
                                 "data_offsets": [len(data), len(data) + halves[name].nbytes]}
            data += halves[name].tobytes()
            index[str(name)] = f"part{number}.safetensors"
        text = json.dumps(header).encode()
        (tmp_path / f"part{number}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (tmp_path / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    model = load_model(tmp_path)
    for name, x in ours.items():
        assert np.array_equal(model.tensors[name].view(np.uint32), x.view(np.uint32) & 0xFFFF0000), name
    (tmp_path / "part1.safetensors").unlink()
    with pytest.raises(ModelError, match="part1.safetensors: cannot be read"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="index.json: cannot be read"):
        load_model(tmp_path)


def test_integers_are_no_weights(tmp_path):
    folder = find_model("austen")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    save_file({name: np.zeros(x.shape, np.uint8) for name, x in load_model(folder).tensors.items()},
              tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="is uint8 of shape"):
        load_model(tmp_path)
