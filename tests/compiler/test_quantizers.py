"""Quantisers: what they leave as it was, what they make better, and that the hardware runs what they make."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_models import MODELS, ids_of, random_model

from wordline.compiler import quantizers
from wordline.compiler.calibration import Inputs, Work, expected_names
from wordline.compiler.model import ModelError, load_model
from wordline.compiler.quantize_clip import clipped
from wordline.compiler.quantize_gptq import compensated
from wordline.compiler.transformer import CompileError, compile_model
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.quantize import dequantize, quantize
from wordline.rtl.config import ConfigError, TypesConfig, load_config
from wordline.sim.accuracy import Setting, cost
from wordline.sim.calibrate import calibrate, calibration_windows
from wordline.sim.evaluate import kl_divergence
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.mixed import plan, sensitivities
from wordline.sim.reference import float_logits
from wordline.sim.texts import DOMAINS

TYPES = ["int3", "int4_asym", "bitmod_fp3", "mxfp4", "nvfp4", "pow2x3", "ternary", "int1"]


def correlated(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, Inputs]:
    """Weights, and inputs of which some are much larger and all depend on one another."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((512, k)) @ (np.eye(k) + 0.3 * rng.standard_normal((k, k)) / np.sqrt(k) * 3)
    x = (x * rng.lognormal(0, 1, k)).astype(np.float32)
    weights = rng.standard_normal((n, k)).astype(np.float32)
    return weights, Inputs(x.T @ x / len(x), np.abs(x).mean(0), np.abs(x).max(0))


def work(dtype: str, group: int = 64) -> Work:
    return Work(load_model("austen"), TypesConfig(weights=dtype, group_size=group), {})


@pytest.mark.parametrize("dtype", TYPES)
def test_compensation_keeps_scales_and_lowers_the_error(dtype):
    """K = 200 has a short last group; the codes decode to what the error was computed with."""
    weights, inputs = correlated(48, 200)
    plain = quantize(weights, WEIGHT_TYPES[dtype], 64)
    better = compensated(weights, plain, inputs)
    assert np.array_equal(better.scales, plain.scales) and np.array_equal(better.channel_scale, plain.channel_scale)
    before, after = (inputs.output_error(dequantize(q) - weights) for q in (plain, better))
    assert after < 0.9 * before
    assert not np.array_equal(better.codes, plain.codes) and better.codes.max() < 1 << plain.dtype.bits


def test_compensation_of_uncorrelated_inputs_is_plain_rounding():
    weights = np.random.default_rng(1).standard_normal((16, 128)).astype(np.float32)
    inputs = Inputs(np.eye(128, dtype=np.float32), np.ones(128, np.float32), np.ones(128, np.float32))
    for dtype in TYPES:
        plain = quantize(weights, WEIGHT_TYPES[dtype], 64)
        assert np.array_equal(compensated(weights, plain, inputs).codes, plain.codes), dtype


def test_compensation_takes_dead_channels_and_empty_groups():
    """Channels that are always zero, and a group of weights that are: no division by zero, and zeros stay."""
    weights, inputs = correlated(8, 128)
    weights[:, 64:] = 0
    gram = inputs.gram.copy()
    gram[:5] = gram[:, :5] = 0
    q = compensated(weights, quantize(weights, WEIGHT_TYPES["int4"], 64), Inputs(gram, inputs.size, inputs.peak))
    assert not dequantize(q)[:, 64:].any()


@pytest.mark.parametrize("dtype", ["int3", "int3_asym", "bitmod_fp3"])
def test_clipping_lowers_the_weighted_error(dtype):
    rng = np.random.default_rng(2)
    weights = rng.standard_t(4, (32, 200)).astype(np.float32)  # with outliers
    importance = rng.lognormal(0, 1, 200).astype(np.float32)
    w = work(dtype)
    cut = clipped(weights, importance, w, "o")
    before, after = ((((w.rounded(x, "o") - weights) ** 2) * importance).sum() for x in (weights, cut))
    assert after < 0.97 * before and np.abs(cut).max() <= np.abs(weights).max()


@pytest.mark.parametrize("name", MODELS)
def test_scales_that_are_folded_leave_the_float_model_as_it_is(name):
    """Of every architecture: norms with and without offset and bias, shared value heads, gated and plain MLPs."""
    model = random_model(MODELS[name])
    ids = ids_of(model.config, 12)
    calibration = calibrate(model, [ids])
    assert list(calibration) == expected_names(model.config)
    w = Work(model, TypesConfig(group_size=0), calibration)
    rng = np.random.default_rng(3)
    folded = 0
    for m in w.matrices():
        s = w.shared(m, rng.lognormal(0, 0.5, w.weights(m).shape[1]).astype(np.float32))
        if s is not None:
            w.divide_inputs(m, s)
            folded += 1
    changed = w.result()
    assert folded >= model.config.layers * (3 if name.startswith("gpt2") else 4)
    exact, ours = float_logits(model, ids), float_logits(changed, ids)
    assert np.abs(exact - ours).max() < 2e-4 * np.abs(exact).max()
    measured = calibrate(changed, [ids])
    for m in w.matrices():  # and the calibration is that of the changed model
        assert np.allclose(measured[m.name].size, w.inputs[m.name].size, rtol=2e-3, atol=1e-5), m.name


@pytest.fixture(scope="module")
def austen():
    model = load_model("austen")
    return model, calibrate(model, calibration_windows(model, [DOMAINS["austen"]()], 2048, 256))


def divergence(model, source, types) -> float:
    ids = np.array(source.tokenizer.encode(DOMAINS["austen"]().evaluation[:2000]).ids[:256])
    return float(kl_divergence(float_logits(source, ids), HardwareModel(model, types).logits(ids)).mean())


@pytest.mark.parametrize(("names", "gain"), [("gptq", 0.9), ("clip", 0.8), ("awq,clip,gptq", 0.75)])
def test_quantisers_bring_the_embedded_model_nearer_to_its_source(names, gain, austen):
    model, calibration = austen
    t = load_config("bitmod", ["types.weights=int3", "types.head=int8"]).types
    better = quantizers.apply(model, quantizers.parse(names), t, calibration)
    assert divergence(better, model, t) < gain * divergence(model, model, t)


@pytest.mark.parametrize(("name", "types"), [("awq", ["types.weights=int3"]),
                                             ("smooth", ["types.weights=int8", "types.acts=4"])])
def test_scales_help_where_some_channels_are_large(name, types):
    """The embedded model has no outliers; here one channel in sixteen of every norm is thirty times the others."""
    model = random_model(MODELS["llama"])
    tensors = dict(model.tensors)
    for key in tensors:
        if key.endswith("layernorm.weight"):
            tensors[key] = np.where(np.arange(64) % 16 == 3, 30, 1).astype(np.float32) * tensors[key]
            for part in ("q_proj", "k_proj", "v_proj") if "input" in key else ("gate_proj", "up_proj"):
                where = "self_attn" if "input" in key else "mlp"
                matrix = f"{key.rpartition('.')[0].rpartition('.')[0]}.{where}.{part}.weight"
                tensors[matrix] = np.where(np.arange(64) % 16 == 3, 0.1, 1).astype(np.float32) * tensors[matrix]
    model = replace(model, tensors=tensors)
    ids, other = ids_of(model.config, 32), (ids_of(model.config, 32) * 7 + 1) % 64
    t = load_config("bitmod", [*types, "types.head=int8"]).types
    better = quantizers.apply(model, (name,), t, calibrate(model, [other]))
    exact = float_logits(model, ids)
    plain, ours = (np.square(HardwareModel(m, t).logits(ids) - exact).mean() for m in (model, better))
    assert ours < 0.8 * plain


def test_what_quantisers_make_runs_on_the_accelerator(austen):
    """The compiled program of a compensated model gives the bits of the batched model."""
    model, calibration = austen
    config = load_config("bitmod", ["types.weights=int3", "types.head=int8"])
    ours = quantizers.apply(model, ("awq", "gptq"), config.types, calibration)
    generator = Generator(ours, compile_model(ours, config, context=32), model.tokenizer.encode("It was").ids, 3)
    run = generator.functional(FunctionalMachine(config), lambda tokens: None)
    batched = HardwareModel(ours, config.types).logits(run.tokens)[run.prompt - 1 : -1]
    assert np.array_equal(batched.view(np.uint32), run.logits.view(np.uint32))
    plain = HardwareModel(model, config.types).logits(run.tokens)[run.prompt - 1 : -1]
    assert not np.array_equal(batched, plain)
    with pytest.raises(CompileError, match="layer 0 qkv was rounded to int3 in groups of 64, not to int4 of 64"):
        compile_model(ours, replace(config, types=replace(config.types, weights="int4")), context=32)


def test_names_are_sorted_and_unknown_ones_refused():
    assert quantizers.parse("gptq, AWQ") == ("awq", "gptq")
    with pytest.raises(ModelError, match="no quantizer 'magic'; there are smooth, awq, clip, gptq"):
        quantizers.parse("awq,magic")


# --- Mixed precision.

MIXED = ["types.weights=int4", 'types.mixed=["down=int8", "qkv=bitmod_fp3"]', "types.head=int8"]


def test_a_mixture_of_types_runs_on_the_accelerator_as_it_is_measured():
    model, config = load_model("austen"), load_config("bitmod", MIXED)
    program = compile_model(model, config, context=32)
    run = Generator(model, program, model.tokenizer.encode("It was").ids, 3).functional(
        FunctionalMachine(config), lambda tokens: None)
    batched = HardwareModel(model, config.types).logits(run.tokens)[run.prompt - 1 : -1]
    assert np.array_equal(batched.view(np.uint32), run.logits.view(np.uint32))
    assert program.symbols["layer0.down"].dtype == "int8" and program.symbols["layer1.qkv"].dtype == "bitmod_fp3"
    assert program.symbols["layer0.o"].dtype == "int4"
    with pytest.raises(ConfigError, match="types.mixed = 'up=int8' is not allowed: MATRIX=TYPE with one of qkv, o"):
        load_config("bitmod", ['types.mixed=["up=int8"]'])


def test_the_budget_goes_where_it_is_felt_most():
    """Made-up sensitivities: down suffers most, so it gets the bits; with less, what helps most per bit; too little is
    refused."""
    model = load_model("austen")
    found = {(kind, d): {"int3": 1.0, "int8": 0.01}[d] * (10 if kind == "down" else 1)
             for kind in ("qkv", "o", "gate_up", "down") for d in ("int3", "int8")}
    smallest = plan(model, found, 3.5, 64)
    assert set(smallest.types.values()) == {"int3"} and smallest.bits < 3.5
    some = plan(model, found, 5.0, 64)
    assert some.types["down"] == "int8" and some.bits <= 5 and "int3" in some.types.values()
    assert set(plan(model, found, 9, 64).types.values()) == {"int8"}
    setting = Setting("int3", mixed=some.mixed())
    assert cost(model, setting, 0).body_bits == pytest.approx(some.bits)
    with pytest.raises(ModelError, match="a budget of 3 bits per weight is below 3"):
        plan(model, found, 3, 64)


def test_sensitivities_are_of_one_kind_at_a_time():
    model = load_model("austen")
    ids = np.array(model.tokenizer.encode(DOMAINS["austen"]().calibration[:400]).ids[:48])
    found = sensitivities(model, ["int8", "int2"], 64, ids)
    assert len(found) == 8 and all(found[kind, "int2"] > 20 * found[kind, "int8"] > 0 for kind in ("qkv", "down"))
