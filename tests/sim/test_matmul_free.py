"""MatMul-free LM: from a checkpoint as its authors release it to the bits of the RTL."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from executors import check_rtl, error, functional
from safetensors.numpy import save_file
from tiny_models import MLGRU, ids_of, random_model

from wordline.compiler.model import Model, ModelError, find_model, load_model
from wordline.compiler.transformer import compile_model
from wordline.compiler.weights import CompileError
from wordline.rtl.config import TypesConfig, load_config
from wordline.sim import verify
from wordline.sim.generate import Generation, Generator, compare
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.reference import float_logits
from wordline.sim.rtl import RtlMachine

FIELDS = {"model_type": "hgrn_bit", "hidden_size": 32, "num_hidden_layers": 3, "num_heads": 1, "expand_ratio": 1,
          "intermediate_size": 48, "hidden_act": "swish", "rms_norm_eps": 1e-6, "vocab_size": 512,
          "max_position_embeddings": 64, "use_lower_bound": True, "use_short_conv": False, "tie_word_embeddings": False}


def checkpoint(folder, fields) -> dict[str, np.ndarray]:
    """A folder as released, with random numbers; its tensors under their own names."""
    rng = np.random.default_rng(3)
    width, ffn, layers, vocab = (int(fields[name]) for name in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    shapes: dict[str, tuple[int, ...]] = {"model.embeddings.weight": (vocab, width), "model.norm.weight": (width,),
                                          "lm_head.weight": (vocab, width), "lm_head.norm.weight": (width,)}
    if fields["use_lower_bound"]:
        shapes["model.lower_bounds"] = (layers, width)
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {f"{at}attn_norm.weight": (width,), f"{at}mlp_norm.weight": (width,),
                   f"{at}attn.g_norm.weight": (width,)}
        for name, n, k in [*((f"attn.{x}_proj", width, width) for x in "ifgo"), ("mlp.gate_proj", 2 * ffn, width),
                           ("mlp.down_proj", width, ffn)]:
            shapes |= {f"{at}{name}.weight": (n, k), f"{at}{name}.norm.weight": (k,)}
    tensors = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape)
        if name.endswith("norm.weight"):
            x = 1 + 0.3 * x
        elif "embeddings" in name:  # 8 bits, which is what the accelerator keeps of them
            x = np.clip(np.rint(x * 50), -127, 127) / 50
            x[:, 0] = 127 / 50
        elif len(shape) == 2 and "bounds" not in name:
            x = x / math.sqrt(shape[1])
        tensors[name] = x.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    return tensors


def plain(t: dict[str, np.ndarray], fields, ids) -> np.ndarray:
    """The model token by token, channel sums written out, on the checkpoint's own tensors: shares nothing with ours."""
    layers, eps = int(fields["num_hidden_layers"]), float(fields["rms_norm_eps"])

    def norm(x, gain):
        return [v * g / math.sqrt(sum(u * u for u in x) / len(x) + eps) for v, g in zip(x, gain.tolist(), strict=True)]

    def sigmoid(v):
        return 1 / (1 + math.exp(-v))

    rounded = {}
    for name, w in t.items():
        if name.replace("lm_head", "head_proj").endswith("_proj.weight"):
            mean = float(np.abs(w.astype(float)).mean())
            rounded[name] = [[mean * max(-1, min(1, round(v / mean))) for v in row] for row in w.tolist()]

    def linear(x, name):
        x = norm(x, t[f"{name}.norm.weight"])
        return [sum(a * b for a, b in zip(row, x, strict=True)) for row in rounded[f"{name}.weight"]]

    bounds = None
    if fields["use_lower_bound"]:
        powers = np.exp(t["model.lower_bounds"].astype(float))
        shares = powers / powers.sum(0)
        bounds = [[sum(shares[1 : i + 1, j]) for j in range(shares.shape[1])] for i in range(layers)]
    states = [[0.0] * len(t["model.norm.weight"]) for _ in range(layers)]
    out = []
    for token in ids:
        x = t["model.embeddings.weight"][token].tolist()
        for i in range(layers):
            at = f"model.layers.{i}."
            h = norm(x, t[f"{at}attn_norm.weight"])
            source, forget, gate = (linear(h, f"{at}attn.{name}_proj") for name in "ifg")
            for j, (s, f) in enumerate(zip(source, forget, strict=True)):
                low = bounds[i][j] if bounds else 0.0
                f = low + (1 - low) * sigmoid(f)
                states[i][j] = f * states[i][j] + s * sigmoid(s) * (1 - f)
            gate = norm(gate, t[f"{at}attn.g_norm.weight"])
            y = linear([g * s * sigmoid(s) for g, s in zip(gate, states[i], strict=True)], f"{at}attn.o_proj")
            x = [a + b for a, b in zip(x, y, strict=True)]
            both = linear(norm(x, t[f"{at}mlp_norm.weight"]), f"{at}mlp.gate_proj")
            half = len(both) // 2
            hidden = [a * sigmoid(a) * b for a, b in zip(both[:half], both[half:], strict=True)]
            y = linear(hidden, f"{at}mlp.down_proj")
            x = [a + b for a, b in zip(x, y, strict=True)]
        out.append(linear(norm(x, t["model.norm.weight"]), "lm_head"))
    return np.array(out)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_released_checkpoint_computes_what_its_formulas_say(bounded, tmp_path):
    fields = FIELDS | {"use_lower_bound": bounded, "hidden_ratio": 4}
    tensors = checkpoint(tmp_path, fields)
    model, ids = load_model(tmp_path), np.random.default_rng(1).integers(0, 512, 12)
    exact = plain(tensors, fields, ids)
    assert error(float_logits(model, ids), exact) < 1e-6
    # What the accelerator makes of it: ternary weights are kept, activations are rounded to 16 bits.
    types = TypesConfig(weights="ternary", group_size=0, acts=16)
    assert error(HardwareModel(model, types).logits(ids), exact) < 1e-3
    missing = {name: x for name, x in tensors.items() if name != "model.layers.1.attn.f_proj.norm.weight"}
    save_file(missing, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"tensor model.layers.1.attn.f_proj.norm.weight is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    ({"use_short_conv": True}, "use_short_conv = True is not supported"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings = True is not supported"),
    ({"hidden_act": "relu"}, "hidden_act = 'relu' is not supported, only 'swish'"),
    ({"num_heads": 5}, "num_heads = 5 and expand_ratio = 1 do not go together"),
    ({"use_rope": True}, "field 'use_rope' is not understood"),
    ({"hidden_size": 40}, r"is float32 of shape \(512, 32\), the model's configuration says floats of \(512, 40\)"),
    ({"expand_ratio": 2}, r"lower_bounds is float32 of shape \(3, 32\).*\(3, 64\)"),
])
def test_what_does_not_fit_is_refused_by_name(change, message, tmp_path):
    checkpoint(tmp_path, FIELDS)
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | change))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def generate(model: Model, config, prompt: int = 9, *, garbage: bool = False) -> Generation:
    program = compile_model(model, config)
    if garbage:  # as another text would have left it
        for name, symbol in program.symbols.items():
            if name.endswith(".state"):
                program.segments[symbol.address] = np.random.default_rng(5).integers(
                    0, 64, symbol.size).astype(np.uint8)
    generator = Generator(model, program, [int(i) for i in ids_of(model.config, prompt)], 3)
    return functional(generator, config)


def hardware(*more: str):
    return load_config("bitmod", ["types.weights=int8", "types.acts=16", "memory.vector_floats=16384",
                                  "memory.program=4096", *more])


@pytest.mark.parametrize("settings", [
    ["array.rows=2"], ["array.rows=3", "memory.store_floats=64"], ["array.rows=16"],
    ["array.rows=1", "memory.store_floats=64"], ["array.rows=1", "memory.act_elements=128"],
    ["array.rows=3", "memory.act_elements=128"]], ids=",".join)
def test_a_prompt_in_any_chunks_gives_the_same_bits(settings):
    """And a state that bank S takes in parts, and an activation buffer with room for one input."""
    model = random_model(MLGRU)
    one = generate(model, hardware("array.rows=1"))
    other = generate(model, hardware(*settings))
    assert compare(one, other).bits == 0, compare(one, other).where


@pytest.mark.parametrize("rows", [1, 2])
def test_the_state_is_zero_at_the_beginning(rows):
    model, config = random_model(MLGRU), hardware(f"array.rows={rows}")
    assert compare(generate(model, config), generate(model, config, garbage=True)).bits == 0


def test_the_state_matters():
    """The same last token after another text gives other logits: no test above is empty."""
    model = random_model(MLGRU)
    ids = ids_of(MLGRU, 9)
    alone = float_logits(model, ids[-1:])[-1]
    assert error(float_logits(model, ids)[-1], alone) > 0.1


def test_ternary_weights_on_ternary_elements_of_the_rtl(tmp_path):
    """The whole way: file, ternary weights and head, RTL, cycles; a prompt and what follows it."""
    checkpoint(tmp_path, FIELDS)
    model = load_model(tmp_path)
    config = verify.hardware_config("ternary-8x8-bus128")
    config = replace(config, types=TypesConfig(weights="ternary", group_size=0, acts=16))
    program = compile_model(model, config)
    generator = Generator(model, program, [5, 100, 7, 300], 3)
    rtl = check_rtl(generator, config, RtlMachine(config))
    assert error(rtl.logits, float_logits(model, rtl.tokens)[3:-1]) < 1e-3


def test_types_of_its_matrices():
    model = random_model(MLGRU)
    config = hardware('types.mixed=["f=int4"]', 'array.weights=["int8", "int4"]')
    assert compare(generate(model, config), generate(model, hardware())).bits > 0
    with pytest.raises(CompileError, match="types.mixed: mlgru has no matrix qkv; it has i, f, g, o, gate_up, down"):
        compile_model(model, hardware('types.mixed=["qkv=int8"]'))
