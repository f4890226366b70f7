"""Ternary weights in checkpoints: packed, with their scale; as floats with a scale; as floats to be rounded."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from wordline.compiler.architecture import expected_shapes
from wordline.compiler.bitlinear import absmean, unpack
from wordline.compiler.model import ModelError, find_model, load_model, read_config
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.pe.quantize import dequantize, quantize

FIELDS: dict[str, object] = {
    "model_type": "bitnet", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "vocab_size": 512, "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5, "rope_theta": 5e5, "hidden_act": "relu2", "tie_word_embeddings": True}
Q = "model.layers.0.self_attn.q_proj.weight"


def write(folder, quantization, change=lambda name, x: {name: x}) -> dict[str, np.ndarray]:
    """A BitNet with random numbers; what `change` makes of each matrix of a layer is what the file has."""
    fields = FIELDS if quantization is None else FIELDS | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(fields))
    rng = np.random.default_rng(0)
    ours = {name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in expected_shapes(read_config(folder)).items()}
    file: dict[str, np.ndarray] = {}
    for name, x in ours.items():
        file |= change(name, x) if name.endswith("_proj.weight") else {name: x}
    save_file({name: np.ascontiguousarray(x) for name, x in file.items()}, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    return ours


def trits(x: np.ndarray) -> np.ndarray:
    """-1, 0 or 1 by the sign, a third of them 0."""
    return np.sign(x) * (np.abs(x) > 0.43)


def pack(t: np.ndarray) -> np.ndarray:
    """As microsoft/bitnet-b1.58-2B-4T has them: four rows of the matrix, a quarter of it apart, in a byte."""
    n = len(t) // 4
    out = np.zeros((n, t.shape[1]), np.uint8)
    for row in range(n):
        for column in range(t.shape[1]):
            for j in range(4):
                out[row, column] += int(t[row + j * n, column] + 1) << 2 * j
    return out


def test_unpacking_a_byte_by_hand():
    # 0b10_01_00_01 from the top bits: 1, 0, -1, 0, of which the lowest belong to the first row.
    assert unpack(np.array([[0b10010001]], np.uint8))[:, 0].tolist() == [0, -1, 0, 1]


@pytest.mark.parametrize(("linear_class", "value"), [("autobitlinear", 0.25), ("bitlinear", 4.0)])
def test_packed_weights_and_their_scale(linear_class, value, tmp_path):
    """AutoBitLinear multiplies by the scale, BitLinear divides by it."""
    ours = write(tmp_path, {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"},
                 lambda name, x: {name: pack(trits(x)), f"{name}_scale": np.array([0.25], np.float32)})
    model = load_model(tmp_path)
    assert model.precision == "F32, U8"
    for name, x in ours.items():
        expected = trits(x) * value if name.endswith("_proj.weight") else x
        assert np.array_equal(model.tensors[name], expected), name
    # To round them to ternary changes nothing.
    exact = model.tensors[Q]
    assert np.allclose(dequantize(quantize(exact, WEIGHT_TYPES["ternary"])), exact, rtol=1e-6, atol=0)


def test_floats_with_a_scale(tmp_path):
    ours = write(tmp_path, {"quant_method": "bitnet", "linear_class": "autobitlinear"},
                 lambda name, x: {name: trits(x), f"{name}_scale": np.array([0.25], np.float32)})
    assert np.array_equal(load_model(tmp_path).tensors[Q], trits(ours[Q]) * 0.25)


def test_master_weights_are_rounded_by_the_mean_magnitude(tmp_path):
    ours = write(tmp_path, {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"})
    x = load_model(tmp_path).tensors[Q]
    mean = np.abs(ours[Q]).mean()
    assert np.unique(np.rint(x / mean)).tolist() == [-1, 0, 1] and np.allclose(np.abs(x[x != 0]), mean)
    assert np.array_equal(x == 0, np.abs(ours[Q]) < mean / 2)
    assert np.array_equal(absmean(np.zeros((2, 2), np.float32)), np.zeros((2, 2)))


def test_without_a_scheme_weights_are_as_they_stand(tmp_path):
    ours = write(tmp_path, None)
    assert np.array_equal(load_model(tmp_path).tensors[Q], ours[Q])


@pytest.mark.parametrize(("scheme", "message"), [
    ({"quant_method": "gptq"}, "quant_method = 'gptq' is not supported, only 'bitnet'"),
    ({"use_rms_norm": True}, "use_rms_norm = True is not supported"),
    ({"modules_to_not_convert": ["lm_head", "q_proj"]}, "modules_to_not_convert = .* is not supported"),
    ({"bits": 2}, "field 'bits' is not understood"), ("bitnet", "quantization_config = 'bitnet' is not an object"),
])
def test_another_scheme_is_refused_by_name(scheme, message, tmp_path):
    write(tmp_path, scheme)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize(("change", "message"), [
    (lambda name, x: {name: pack(trits(x))}, "q_proj.weight_scale is missing"),
    (lambda name, x: {name: pack(trits(x)), f"{name}_scale": np.zeros(1, np.float32)}, "must be one positive number"),
    (lambda name, x: {name: pack(trits(x))[:2], f"{name}_scale": np.ones(1, np.float32)}, "is float32 of shape"),
])
def test_damaged_packing_is_refused(change, message, tmp_path):
    write(tmp_path, {"quant_method": "bitnet"}, change)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path).tensors[Q]
