"""Hugging Face folders that are damaged, mislabelled or hostile: one error that names the file, never another."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tiny_models import open_whole
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.compiler.architecture import ModelError, expected_shapes
from wordline.compiler.config_json import ARCHITECTURES
from wordline.compiler.model import find_model, load_model, read_config
from wordline.compiler.transformer import compile_model
from wordline.rtl.config import load_config
from wordline.sim.functional import FunctionalMachine
from wordline.sim.generate import Generator

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 512, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "tie_word_embeddings": True}


def folder(path: Path, fields: dict | None = None, tensors: dict | None = None) -> Path:
    """A tiny Llama with the embedded model's tokenizer."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(LLAMA | (fields or {})))
    (path / "tokenizer.json").write_bytes((find_model("austen") / "tokenizer.json").read_bytes())
    if tensors is None:
        rng = np.random.default_rng(0)
        tensors = {name: 0.2 * rng.standard_normal(shape).astype(np.float32)
                   for name, shape in expected_shapes(read_config(path)).items()}
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("models") / "whole")


JSON = st.recursive(st.none() | st.booleans() | st.integers(-2, 1 << 40) | st.floats() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
                    max_leaves=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(ARCHITECTURES)), data=st.data())
def test_any_value_in_any_field_of_config_json_gives_one_error(kind, data, tmp_path):
    names = [*LLAMA, "head_dim", "rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window",
             "layer_types", "attention_bias", "text_config", "n_embd", "n_head", "n_layer", "n_positions", "ffn_dim",
             "eos_token_id",
             "word_embed_proj_dim", "query_pre_attn_scalar", "sliding_window_pattern", "hidden_activation"]
    changes = data.draw(st.dictionaries(st.sampled_from(names), JSON, max_size=4))
    gpt2 = {"n_embd": 64, "n_head": 4, "n_layer": 1, "n_positions": 64, "vocab_size": 512}
    opt = {"ffn_dim": 64, "word_embed_proj_dim": 64}
    fields = (gpt2 if kind == "gpt2" else LLAMA | opt if kind == "opt" else LLAMA) | changes | {"model_type": kind}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    try:
        expected_shapes(read_config(tmp_path))
    except ModelError as error:
        assert str(error).startswith(str(tmp_path / "config.json"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["config.json", "tokenizer.json", "model.safetensors"]), cut=st.integers(0, 1 << 30),
       cuts=st.booleans(), changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), max_size=5))
def test_no_damage_to_a_file_gives_another_error(whole, tmp_path, name, cut, cuts, changes):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = bytearray((whole / name).read_bytes())
    for at, value in changes:
        raw[at % min(len(raw), 8192)] = value
    (tmp_path / name).write_bytes(raw[: cut % len(raw)] if cuts else raw)
    open_whole(tmp_path)


def safetensors_file(path: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(("header", "data"), [
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
      "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}, bytes(24)),
    ({"a": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 16]}}, bytes(16)),
    ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 60]}}, bytes(16)),
    ({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)),
], ids=["overlapping", "huge shape", "beyond the end", "unknown type"])
def test_hostile_safetensors_are_refused(header, data, tmp_path):
    path = folder(tmp_path / "m")
    safetensors_file(path / "model.safetensors", header, data)
    with pytest.raises(ModelError, match="model.safetensors: cannot be read"):
        load_model(path)
    (path / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(ModelError, match="model.safetensors: cannot be read"):
        load_model(path)


def test_an_index_stays_in_its_folder_and_names_a_tensor_once(tmp_path):
    path = folder(tmp_path / "m")
    (path / "model.safetensors").rename(path / "a.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(ModelError, match=r"index.json: weight_map: '../../etc/passwd' is not a file beside"):
        load_model(path)
    (path / "b.safetensors").write_bytes((path / "a.safetensors").read_bytes())
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    with pytest.raises(ModelError, match="b.safetensors: tensor .* is in .*a.safetensors too"):
        load_model(path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    path = folder(tmp_path / "m", {"vocab_size": 100})
    with pytest.raises(ModelError, match="tokenizer.json: the largest token is 511, but .* vocab_size 100"):
        load_model(path)
    (path / "tokenizer.json").write_text("[]")
    with pytest.raises(ModelError, match="tokenizer.json: "):
        load_model(path)


def test_weights_that_are_not_finite_end_a_run_in_one_line(tmp_path):
    path = folder(tmp_path / "m")
    tensors = {name: load_model(path).tensors[name].copy() for name in load_model(path).tensors}
    tensors["model.layers.0.mlp.down_proj.weight"][1, 2] = np.inf
    folder(path, tensors=tensors)
    result = CliRunner().invoke(app, ["run", "bitmod", str(path), "--tokens", "2"])
    text = "".join(result.stderr.split())  # long paths are broken over lines
    assert result.exit_code == 1 and "Traceback" not in text
    assert "model.safetensors:model.layers.0.mlp.down_proj.weightholdsvaluesthatarenotfinite" in text


@pytest.mark.parametrize("dtype", ["int4", "int4_asym", "bitmod_fp3", "mxfp4", "nvfp4", "ternary"])
def test_groups_without_weights_run(dtype, tmp_path):
    """A group, a row and a matrix of zeros have scale 0 and give zeros."""
    path = folder(tmp_path / "m")
    tensors = {name: load_model(path).tensors[name].copy() for name in load_model(path).tensors}
    tensors["model.layers.0.mlp.gate_proj.weight"][:, :32] = 0
    tensors["model.layers.0.mlp.up_proj.weight"][3] = 0
    tensors["model.layers.0.self_attn.o_proj.weight"][:] = 0
    model = load_model(folder(path, tensors=tensors))
    array = ["int8", dtype] if dtype != "int4" else ["int8", "int4"]
    group = {"mxfp4": 32, "nvfp4": 16}.get(dtype, 32)
    config = load_config("bitmod", [f"types.weights={dtype}", f"types.group_size={group}", "types.head=int8",
                                    f"array.weights={json.dumps(array)}", "array.group_min=16", "array.family=mac"])
    generator = Generator(model, compile_model(model, config), [5, 6, 7], 2)
    run = generator.functional(FunctionalMachine(config), lambda tokens: None)
    assert np.isfinite(run.logits).all() and np.ptp(run.logits) > 0
