"""Tiny random models of every architecture: what the accelerator computes against the float model.

INT8 weights, INT16 activations and an INT8 cache leave a root-mean-square error of the logits below 2 % of the logits;
every feature of every architecture, left out, costs more than that, so none can be forgotten.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from executors import check_rtl, error, functional, hardware
from tiny_models import MODELS, RTL, ids_of, random_model

from wordline.compiler.architecture import expected_shapes
from wordline.compiler.model import Model
from wordline.compiler.transformer import TransformerCompiler, compile_model
from wordline.rtl.config import Config, load_config
from wordline.sim import hardware_model, reference
from wordline.sim.generate import Generation, Generator
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.reference import float_logits
from wordline.sim.rtl import RtlMachine

TOLERANCE = 0.02
# A feature, and the model's configuration as it would be without it.
WITHOUT: list[tuple[str, dict[str, object]]] = [
    ("llama", {"rope_theta": 1e2}), ("llama", {"activation": "relu"}),
    ("llama-3.1", {"rope_factor": 1.0}), ("llama-3.1", {"rope_bands": ()}),
    ("llama-biased", {"qkv_bias": False}), ("llama-biased", {"o_bias": False}), ("llama-biased", {"mlp_bias": False}),
    ("qwen2", {"qkv_bias": False}), ("qwen3", {"qk_norm": False}),
    ("gemma3", {"norm_offset": 0.0}), ("gemma3", {"activation": "silu"}), ("gemma3", {"qk_norm": False}),
    ("gemma3", {"embedding_scale": 1.0}), ("gemma3", {"attention_scale": 0.0}), ("gemma3", {"local_layers": ()}),
    ("gpt2", {"activation": "silu"}), ("gpt2", {"o_bias": False}), ("gpt2", {"mlp_bias": False}),
    ("gpt2", {"qkv_bias": False}), ("gpt2-erf", {"activation": "relu"}), ("opt", {"activation": "silu"}),
    ("opt", {"position_offset": 0}), ("bitnet", {"sub_norms": False}), ("bitnet", {"activation": "relu"}),
    ("mlgru", {"lower_bounds": False}),
]


def generator(model: Model, config: Config, prompt: int, tokens: int) -> Generator:
    return Generator(model, compile_model(model, config), [int(i) for i in ids_of(model.config, prompt)], tokens)


def generated(model: Model, config: Config) -> Generation:
    return functional(generator(model, config, 9, 4), config)


@pytest.mark.parametrize("name", MODELS)
def test_the_compiled_program_computes_the_architecture(name):
    model = random_model(MODELS[name])
    run = generated(model, hardware())
    ours = run.logits
    exact = float_logits(model, run.tokens)[run.prompt - 1 : -1]
    assert error(ours, exact) < TOLERANCE
    batched = HardwareModel(model, hardware().types).logits(run.tokens)[run.prompt - 1 : -1]
    assert np.array_equal(batched.view(np.uint32), ours.view(np.uint32))


@pytest.mark.parametrize("name", MODELS)
def test_other_hardware_gives_the_same_bits(name):
    """Rows, columns, lanes, vector lanes and bus all differ; a head is shorter than a step and than a tile."""
    model = random_model(MODELS[name])
    one = generated(model, hardware())
    other = generated(model, hardware(3, "array.lanes=64", "array.cols=64", "vector.lanes=4", "array.group_min=64",
                                    "bus.data_bits=256", "memory.matmul_floats=16384", "memory.load_floats=4096"))
    assert np.array_equal(one.logits.view(np.uint32), other.logits.view(np.uint32))


@pytest.fixture(scope="module")
def machine():
    return RtlMachine(RTL)


@pytest.mark.parametrize("name", MODELS)
def test_the_rtl_gives_the_same_bits_in_the_cycles_of_the_model(name, machine):
    check_rtl(generator(random_model(MODELS[name]), RTL, 3, 2), RTL, machine)


def test_heads_shorter_than_a_step_and_a_tile_on_the_rtl():
    """Heads of 4 where the array has 8 lanes and 8 columns."""
    cfg = load_config("ulx3s", ["array.act_bits=16", "types.weights=int8", "types.acts=16"])
    model = random_model(replace(MODELS["opt"], width=32, heads=4, kv_heads=4, head_dim=4, ffn=32))
    run = check_rtl(generator(model, cfg, 3, 2), cfg, RtlMachine(cfg))
    assert error(run.logits, float_logits(model, run.tokens)[run.prompt - 1 : -1]) < TOLERANCE


@pytest.mark.parametrize(("name", "without"), WITHOUT, ids=lambda v: v if isinstance(v, str) else next(iter(v)))
def test_a_feature_left_out_is_seen(name, without):
    model = random_model(MODELS[name])
    config_ = replace(model.config, **without)
    gone = set(expected_shapes(model.config)) - set(expected_shapes(config_))
    plain = Model(config_, {k: v for k, v in model.tensors.items() if k not in gone}, None, Path())
    ids = ids_of(model.config, 12)
    assert error(float_logits(plain, ids), float_logits(model, ids)) > 2 * TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_every_gain_and_bias_is_seen(name):
    """Gains made 1 and biases made 0, one after the other."""
    model = random_model(MODELS[name])
    ids = ids_of(model.config, 12)
    exact = float_logits(model, ids)
    for tensor, value in model.tensors.items():
        if value.ndim == 2 or (model.config.positions == "learned" and tensor.endswith("k_proj.bias")):
            continue  # without RoPE, a bias of the keys adds the same to all scores of a query
        neutral = np.full_like(value, 0 if tensor.endswith("bias") else 1 - model.config.norm_offset)
        tensors = dict(model.tensors) | {tensor: neutral}
        assert error(float_logits(Model(model.config, tensors, None, Path()), ids), exact) > 1.5 * TOLERANCE, tensor


def test_layernorm_takes_the_mean_off_and_post_norms_norm():
    gpt2, gemma = random_model(MODELS["gpt2"]), random_model(MODELS["gemma3"])
    rms = replace(gpt2.config, norm="rms")
    ids = ids_of(rms, 12)
    assert error(float_logits(Model(rms, gpt2.tensors, None, Path()), ids), float_logits(gpt2, ids)) > 2 * TOLERANCE
    plain = replace(gemma.config, post_norms=False)
    tensors = dict(gemma.tensors)
    for i in range(plain.layers):
        at = f"model.layers.{i}."
        tensors[f"{at}post_attention_layernorm.weight"] = tensors[f"{at}pre_feedforward_layernorm.weight"]
    assert error(float_logits(Model(plain, tensors, None, Path()), ids), float_logits(gemma, ids)) > 2 * TOLERANCE


@pytest.mark.parametrize(("name", "bound"), [
    ("silu", 5e-7), ("gelu_tanh", 5e-7), ("gelu", 5e-7), ("relu", 0), ("relu2", 1e-7)])
def test_activation_functions_are_accurate(name, bound):
    """The error is below `bound` times the larger of |x| and the result."""
    x = np.concatenate([np.linspace(-20, 20, 40001), np.geomspace(1e-30, 1e4, 2000), -np.geomspace(1e-30, 1e4, 2000),
                        [0.0]]).astype(np.float32)
    ours = hardware_model.activation(name, x).astype(np.float64)
    exact = reference.activation(name, x.astype(np.float64))
    assert np.isfinite(ours).all()
    assert (np.abs(ours - exact) <= bound * np.maximum(np.abs(exact), np.abs(x)) + 1e-37).all()


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_all_heads_at_once_give_the_same_bits(name):
    """Memories that hold the cache's codes, the value scales and the scores of all heads; four AXI ports."""
    shape = MODELS[name] if name == "gpt2" else replace(MODELS[name], kv_heads=MODELS[name].heads)
    model = random_model(shape)
    wide = hardware(1, "array.lanes=16", "array.cols=16", "vector.lanes=8", "bus.data_bits=512", "bus.ports=4",
                  "memory.matmul_floats=16384", "memory.load_floats=8192")
    assert TransformerCompiler(model, wide).places.together
    assert not TransformerCompiler(model, hardware()).places.together
    one, other = generated(model, hardware()), generated(model, wide)
    assert np.array_equal(one.logits.view(np.uint32), other.logits.view(np.uint32))
