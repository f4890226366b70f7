"""The float model against Hugging Face's transformers: tiny random models, saved by it and read by us.

Needs torch and transformers, which the development extra does not bring: ``pip install torch transformers accelerate``
(of torch the CPU build is enough; accelerate is for BitNet alone). MatMul-free LM, which transformers does not have, is
held to its formulas in test_matmul_free.py.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from wordline.compiler.architecture import expected_shapes
from wordline.compiler.model import Model, find_model, load_model, read_config
from wordline.sim.reference import float_logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONTEXT = 48
_SMALL = {"hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4, "vocab_size": 512,
          "max_position_embeddings": CONTEXT}
_LLAMA = _SMALL | {"intermediate_size": 96, "num_key_value_heads": 2}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "vocab_size": 512}
_GEMMA3 = _LLAMA | {"head_dim": 32, "query_pre_attn_scalar": 20, "sliding_window": 16}
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "llama-biased": ("LlamaConfig", _LLAMA | {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}),
    "llama-3.1": ("LlamaConfig", _LLAMA | {"rope_theta": 100.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24}}),
    "linear": ("LlamaConfig", _LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mistral": ("MistralConfig", _LLAMA | {"sliding_window": 16}),
    "qwen2": ("Qwen2Config", _LLAMA | {"tie_word_embeddings": True}),
    "qwen2-sliding": ("Qwen2Config", _LLAMA | {"use_sliding_window": True, "sliding_window": 16,
                                               "max_window_layers": 3}),
    "qwen3": ("Qwen3Config", _LLAMA | {"head_dim": 32}),
    # Seven layers: the sixth sees all positions and has the other RoPE.
    "gemma3": ("Gemma3TextConfig", _GEMMA3),
    "gemma3-with-images": ("Gemma3Config", {
        "text_config": _GEMMA3, "mm_tokens_per_image": 4, "boi_token_index": 509, "eoi_token_index": 510,
        "image_token_index": 511, "vision_config": {
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 28, "patch_size": 14}}),
    "gpt2": ("GPT2Config", _GPT2),
    "gpt2-erf": ("GPT2Config", _GPT2 | {"activation_function": "gelu"}),
    "opt": ("OPTConfig", _SMALL | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "bitnet": ("BitNetConfig", _LLAMA | {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name, tmp_path):
    kind, fields = CASES[name]
    torch.manual_seed(0)
    auto = transformers.AutoModelForImageTextToText if "vision_config" in fields else transformers.AutoModelForCausalLM
    theirs = auto.from_config(getattr(transformers, kind)(**fields)).double().eval()
    with torch.no_grad():
        for key, x in theirs.named_parameters():
            embedding = any(part in key for part in ("embed", "wte", "wpe"))
            if "vision" in key or "multi_modal" in key:
                continue
            if x.ndim == 1:
                x.add_(0.3 * torch.randn_like(x))
            else:
                x.copy_(torch.randn_like(x) * (0.5 if embedding else x.shape[1] ** -0.5))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    model = load_model(tmp_path)
    assert isinstance(model, Model) and model.tensors.keys() == expected_shapes(read_config(tmp_path)).keys()
    ids = np.random.default_rng(1).integers(3, 500, 40)  # no images
    with torch.no_grad():
        exact = theirs(torch.tensor(ids)[None]).logits[0].numpy()
    # transformers computes the angles of RoPE, and the weights we read become, float32.
    assert np.abs(float_logits(model, ids) - exact).max() < 1e-4 * np.sqrt((exact**2).mean())


@pytest.mark.parametrize(("linear_class", "mode"), [
    ("autobitlinear", "offline"), ("bitlinear", "offline"), ("autobitlinear", "online")])
def test_bitnet_as_released(linear_class, mode, tmp_path):
    """Packed weights with their scale, by which one class multiplies and the other divides; and master weights, rounded
    when they are used. Activations of 8 bits in all of them."""
    pytest.importorskip("accelerate")
    from transformers.integrations.bitnet import pack_weights

    config = transformers.BitNetConfig(**_LLAMA, tie_word_embeddings=True)
    torch.manual_seed(0)
    tensors = {}
    for name, x in transformers.AutoModelForCausalLM.from_config(config).state_dict().items():
        x = 1 + 0.3 * torch.randn_like(x) if x.ndim == 1 else torch.randn_like(x) * (0.5 if "embed" in name else 1)
        if name.endswith("_proj.weight"):
            if mode == "offline":
                scale = torch.tensor([x.shape[1] ** (-0.5 if linear_class == "autobitlinear" else 0.5)])
                tensors[f"{name}_scale"] = scale.numpy()
                x = pack_weights(torch.sign(x) * (x.abs() > 0.5))
            else:
                x = x * x.shape[1] ** -0.5
        if name != "lm_head.weight":
            tensors[name] = x.contiguous().numpy()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    config.save_pretrained(tmp_path)
    scheme = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": mode}
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(
        fields | {"architectures": ["BitNetForCausalLM"], "quantization_config": scheme}))
    (tmp_path / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    linear = {type(module).__name__ for name, module in theirs.named_modules() if name.endswith("_proj")}
    assert linear == {{"autobitlinear": "AutoBitLinear", "bitlinear": "BitLinear"}[linear_class]}
    model, ids = load_model(tmp_path), np.random.default_rng(1).integers(3, 512, 40)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # to compile four functions takes a minute
        exact = theirs(torch.tensor(ids)[None]).logits[0].double().numpy()

    def errors(ours):
        """Of every token, relative to the logits."""
        return np.sqrt(((ours - exact) ** 2).mean(1) / (exact**2).mean())

    # An activation between two integers may go the other way in float32 than in double precision, by one part in 127.
    # Until that happens the logits are equal; what is rounded otherwise costs more from the first token on.
    ours = errors(float_logits(model, ids, acts=8))
    print(np.array2string(ours, precision=1))
    assert ours[:4].max() < 1e-5 and ours.max() < 0.02
    assert errors(float_logits(model, ids)).min() > 0.01
