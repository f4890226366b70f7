"""GGUF files: written by the gguf package, read by us; and files that are damaged or hostile."""

import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
from gguf.constants import GGMLQuantizationType as Format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gguf import LLAMA, MODELS, finish, tensors, theirs, write
from tiny_models import open_whole
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.compiler.architecture import ModelError, expected_shapes
from wordline.compiler.gguf_file import FORMATS, GgufFile
from wordline.compiler.model import find_config, load_model


@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_is_read_as_it_was_written(kind, tmp_path):
    c = MODELS[kind]
    ours = tensors(c)
    path = write(tmp_path / "tiny.gguf", kind, c, ours)
    model = load_model(path)
    assert replace(model.config, eos=-1) == c and model.config.eos == 258 and find_config(path) == model.config
    assert list(model.tensors) == list(ours)
    for name, x in ours.items():
        assert np.array_equal(model.tensors[name], x), name
    assert model.precision == "F32"


def test_what_transformers_saves_and_what_its_converter_makes_are_the_same_rows():
    """Row r of a head's first half lies at 2r in GGUF, row r of its second half at 2r + 1."""
    c = replace(LLAMA, heads=1, kv_heads=1)
    name = "model.layers.0.self_attn.q_proj.weight"
    x = np.arange(16 * 64, dtype=np.float32).reshape(16, 64)
    there = theirs("llama", c, {name: x})["blk.0.attn_q.weight"]
    assert np.array_equal(there[:, 0] // 64, [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15])


@pytest.mark.parametrize("format_", ["TQ1_0", "TQ2_0"])
def test_bitnet_with_packed_weights_their_scales_and_its_activation(format_, tmp_path):
    """Ternary weights times a scale, in blocks and as a tensor of its own, are what comes out, to float16's precision
    of the blocks' scales."""
    c = replace(LLAMA, width=256, head_dim=64, ffn=512, sub_norms=True, tied=True, activation="relu2")
    rng = np.random.default_rng(2)
    ours = {name: (rng.integers(-1, 2, shape) * 0.75).astype(np.float32) if len(shape) == 2
            else rng.standard_normal(shape).astype(np.float32) for name, shape in expected_shapes(c).items()}
    extra = {"blk.1.attn_k.scale": np.array([0.5], np.float32)}
    path = write(tmp_path / "a.gguf", "bitnet", c, ours, {"hidden_activation": "relu2"}, Format[format_], extra)
    model = load_model(path)
    assert replace(model.config, eos=-1, name="tiny") == c
    for name, x in ours.items():
        scale = 0.5 if name == "model.layers.1.self_attn.k_proj.weight" else 1
        assert np.array_equal(model.tensors[name], x * np.float32(scale)), name
    wrong = {"blk.1.attn_k.scale": np.ones(2, np.float32)}
    path = write(tmp_path / "b.gguf", "bitnet", c, ours, None, Format[format_], wrong)
    with pytest.raises(ModelError, match="tensor 'blk.1.attn_k.scale' must be one number, not 2"):
        load_model(path).tensors["model.layers.1.self_attn.k_proj.weight"]


@pytest.mark.parametrize("format_", [f for f in FORMATS if f not in ("F32", "F64")])
def test_blocks_are_dequantised(format_, tmp_path, monkeypatch):
    """A row of 512 is whole blocks of every format. Rows are dequantised a few at a time, and give the same."""
    kind = Format[format_]
    monkeypatch.setattr("wordline.compiler.gguf_file._ROWS", 1536)
    rng, ternary = np.random.default_rng(1), format_.startswith("TQ")
    x = (rng.integers(-1, 2, (7, 512)) if ternary else rng.standard_normal((7, 512))).astype(np.float32)
    try:
        raw = gguf.quants.quantize(x, kind)
    except NotImplementedError:  # the package only reads K-quants: any codes, with scales of 1/64
        block, size = gguf.constants.GGML_QUANT_SIZES[kind]
        codes = np.random.default_rng(2).integers(0, 256, (7, 512 // block, size)).astype(np.uint8)
        scale = np.frombuffer(np.float16(1 / 64).tobytes(), np.uint8)
        for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[format_]:
            codes[..., at : at + 2] = scale
        raw = codes.reshape(7, -1)
        x = None
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=kind)
    finish(writer)
    ours = GgufFile(tmp_path / "a.gguf").read("x")
    assert ours.shape == (7, 512) and np.isfinite(ours).all() and ours.std() > 0.1
    assert np.array_equal(ours, gguf.quants.dequantize(raw, kind))
    if x is not None:
        assert np.sqrt(((ours - x) ** 2).mean()) < (1e-6 if ternary else 0.12)


def test_the_tokenizer_merges_and_keeps_special_tokens_whole(tmp_path):
    path = write(tmp_path / "tiny.gguf", "llama", LLAMA, tensors(LLAMA))
    tokenizer = load_model(path).tokenizer
    encoded = tokenizer.encode("abc 12<|end|>abé")
    assert encoded.tokens == ["abc", "Ġ", "1", "2", "<|end|>", "ab", "Ã", "©"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == "abc 12<|end|>abé"


def sentence_piece(path: Path, pieces: dict[str, tuple[float, int]], **flags: bool) -> Path:
    """A one-layer Llama whose vocabulary is these pieces, with their scores and types, and the bytes."""
    c = replace(LLAMA, layers=1, vocab=len(pieces) + 259)
    named = {"<unk>": (0.0, 2), "<s>": (0.0, 3), "</s>": (0.0, 3)} | {
        f"<0x{i:02X}>": (0.0, 6) for i in range(256)} | pieces
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {"block_count": 1, "context_length": 32, "embedding_length": 64, "feed_forward_length": 96,
                        "attention.head_count": 4, "attention.head_count_kv": 2}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(named))
    writer.add_token_scores([score for score, _ in named.values()])
    writer.add_token_types([kind for _, kind in named.values()])
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)
    for name, flag in flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", flag)
    for name, x in theirs("llama", c, tensors(c)).items():
        writer.add_tensor(name, x)
    finish(writer)
    return path


def test_sentence_piece_takes_the_merge_with_the_highest_score(tmp_path):
    pieces = {x: (-100.0, 1) for x in "▁abc"} | {"bc": (-1.0, 1), "ab": (-2.0, 1), "▁ab": (-3.0, 1), "\n\n": (-9.0, 4),
                                                "  ": (-9.0, 4)}
    plain = load_model(sentence_piece(tmp_path / "a.gguf", pieces, add_space_prefix=False)).tokenizer
    # "ab" is first in the text, "bc" has the higher score; two spaces and two line ends are found before anything else.
    assert plain.encode("abc ab  ab\n\né").tokens == ["<s>", "a", "bc", "▁ab", "  ", "ab", "\n\n", "<0xC3>", "<0xA9>"]
    assert plain.decode(plain.encode("abc ab  ab\n\né").ids) == "abc ab  ab\n\né"
    prefixed = load_model(sentence_piece(tmp_path / "b.gguf", pieces, add_bos_token=False)).tokenizer
    assert prefixed.encode("ab").tokens == ["▁ab"] and prefixed.decode(prefixed.encode("ab").ids) == "ab"


@pytest.mark.parametrize(("kind", "change", "message"), [
    ("llama", {"expert_count": 8}, "'llama.expert_count' = 8 is not supported"),
    ("llama", {"new_attention": 1}, "'llama.new_attention' is not understood"),
    ("llama", {"block_count": None}, "'llama.block_count' is missing"),
    ("llama", {"block_count": "two"}, "'llama.block_count' = 'two' is not a whole number"),
    ("llama", {"block_count": 1 << 31}, "layers = 2147483648 is no size"),
    ("llama", {"block_count": 3}, "tensor blk.2.attn_norm.weight is missing|tensor .*blk.2.* is missing"),
    ("llama", {"attention.head_count": 0}, "'llama.attention.head_count' is 0"),
    ("llama", {"attention.value_length": 8}, "value_length' = 8 is not supported"),
    ("llama", {"feed_forward_length": 95}, "is float32 of shape .96, 64., the model's configuration says"),
    ("llama", {"rope.scaling.type": "yarn"}, "'yarn' is not supported"),
    ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping' = 30.0 is not supported"),
    ("bitnet", {"hidden_activation": "gelu"}, "hidden_activation' = 'gelu' is not supported"),
])
def test_what_is_not_understood_is_refused_by_name(kind, change, message, tmp_path):
    path = write(tmp_path / "tiny.gguf", kind, MODELS[kind], tensors(MODELS[kind]), change)
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)


def test_an_unknown_architecture_and_an_unknown_tensor_are_refused(tmp_path):
    path = write(tmp_path / "a.gguf", "llama", LLAMA, tensors(LLAMA))
    other = path.read_bytes().replace(b"llama", b"rwkv9")
    (tmp_path / "b.gguf").write_bytes(other)
    finish(gguf.GGUFWriter(tmp_path / "opt.gguf", "opt"))
    with pytest.raises(ModelError, match="is 'opt'; supported: .*; GGUF has no 'opt', it is read from a Hugging Face"):
        find_config(tmp_path / "opt.gguf")
    with pytest.raises(ModelError, match="'general.architecture' is 'rwkv9'; supported: llama"):
        load_model(tmp_path / "b.gguf")
    biased = replace(LLAMA, qk_norm=True)
    path = write(tmp_path / "c.gguf", "llama", biased, tensors(biased))
    with pytest.raises(ModelError, match="tensor 'blk.0.attn_k_norm.weight' is not understood"):
        load_model(path)


def test_a_tokenizer_that_does_not_match_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.gguf", "llama", LLAMA, tensors(LLAMA))
    real = tiny_gguf.byte_level
    monkeypatch.setattr(tiny_gguf, "byte_level", lambda writer, vocab: real(writer, vocab + 1))
    path = write(tmp_path / "b.gguf", "llama", LLAMA, tensors(LLAMA))
    with pytest.raises(ModelError, match="'tokenizer.ggml.tokens' are 301, the embedding has 300 rows"):
        load_model(path)


def test_a_tensor_that_is_not_finite_is_named(tmp_path):
    ours = tensors(LLAMA)
    ours["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    model = load_model(write(tmp_path / "a.gguf", "llama", LLAMA, ours))
    with pytest.raises(ModelError, match=r"a.gguf: model.layers.1.mlp.up_proj.* not finite, the first at .3, 5."):
        model.layer(1, "mlp.up_proj")


def test_a_gguf_file_runs_and_what_does_not_fit_is_refused_with_the_numbers(tmp_path):
    ours = {name: 0.1 * x for name, x in tensors(LLAMA).items()}
    path = str(write(tmp_path / "tiny.gguf", "llama", LLAMA, ours))
    result = CliRunner().invoke(app, ["run", "bitmod", path, "--prompt", "abc", "--tokens", "3", "--json"])
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["prompt_tokens"] == 1 and len(report["tokens"]) == 4 and report["text"].startswith("abc")
    result = CliRunner().invoke(app, ["run", "bitmod", path, "--tokens", "3", "--set", "dram.size=65536"])
    text = " ".join(result.stderr.split())
    found = re.search(r"needs (\d+) bytes of DRAM, .* dram.size = 65536; .* --set dram.size=(\d+)", text)
    assert result.exit_code == 1 and found, text
    need, enough = map(int, found.groups())
    assert need <= enough < need + (1 << 20)
    fits = ["run", "bitmod", path, "--prompt", "abc", "--tokens", "3", "--set", f"dram.size={enough}"]
    assert CliRunner().invoke(app, fits).exit_code == 0


# --- Hostile files: none may be read as if it were whole, nor take long, nor end in another error.

@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    c = replace(LLAMA, layers=1)
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf", "llama", c, tensors(c))


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _file(entries: bytes = b"", entry_count: int = 0, infos: bytes = b"", tensors: int = 0, data: bytes = b"",
          version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, entry_count) + entries + infos
    return head + b"\0" * (-len(head) % 32) + data


def _info(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "empty": (b"", "cannot be read"),
    "magic": (b"GGML" + bytes(100), "begins with b'GGML'"),
    "cut in the header": (b"GGUF\3\0\0\0", "the file ends at 8"),
    "version": (_file(version=1), "version 1 is not supported"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(16), "big-endian"),
    "metadata without end": (_file(entry_count=1 << 62), "metadata entries cannot be in a file"),
    "tensors without end": (_file(tensors=1 << 62), "tensors cannot be in a file"),
    "a string of 2^63 bytes": (_file(struct.pack("<Q", 1 << 63) + bytes(64), 1), "9223372036854775808 bytes are"),
    "an array of 2^61 numbers": (_file(_string("a") + struct.pack("<IIQ", 9, 10, 1 << 61) + bytes(64), 1),
                                 "'a': .* bytes are needed"),
    "an array of 2^61 strings": (_file(_string("a") + struct.pack("<IIQ", 9, 8, 1 << 61) + bytes(64), 1),
                                 "'a': an array of 2305843009213693952 strings"),
    "nested arrays": (_file(_string("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(64), 1), "an array of type 9"),
    "an unknown type": (_file(_string("a") + struct.pack("<I", 77) + bytes(64), 1), "metadata of type 77"),
    "an entry twice": (_file(2 * (_string("a") + struct.pack("<IB", 0, 1)) + bytes(64), 2), "'a': is there twice"),
    "not UTF-8": (_file(struct.pack("<Q", 1) + b"\xff" + bytes(64), 1), "not UTF-8"),
    "a tensor twice": (_file(infos=2 * _info("x", (32,)), tensors=2, data=bytes(128)), "tensor 'x': is there twice"),
    "too many dimensions": (_file(infos=_info("x", (1,) * 9), tensors=1, data=bytes(128)), "9 dimensions"),
    "no elements": (_file(infos=_info("x", (0,)), tensors=1, data=bytes(128)), "of shape .0,."),
    "2^180 elements": (_file(infos=_info("x", (1 << 60,) * 3), tensors=1, data=bytes(128)), "'x': its data of shape"),
    "an unknown format": (_file(infos=_info("x", (32,), 999), tensors=1, data=bytes(128)), "format 999 is not known"),
    "a format that is no number's": (_file(infos=_info("x", (32,), 26), tensors=1, data=bytes(128)), "format I32"),
    "part of a block": (_file(infos=_info("x", (33,), 8), tensors=1, data=bytes(128)), "whole blocks of 32"),
    "an odd offset": (_file(infos=_info("x", (32,), offset=4), tensors=1, data=bytes(256)), "not a multiple of 32"),
    "overlapping data": (_file(infos=_info("x", (32,)) + _info("y", (32,), offset=32), tensors=2, data=bytes(256)),
                         "'y': its data at offset 32 overlaps that of 'x'"),
    "data behind the end": (_file(infos=_info("x", (32,), offset=1 << 40), tensors=1, data=bytes(64)),
                            "'x': .* ends at byte"),
    "an alignment of 3": (_file(_string("general.alignment") + struct.pack("<II", 4, 3), 1, data=bytes(64)),
                          "alignment': 3 is not a power of two"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_error(name, tmp_path):
    raw, message = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(str(path))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6),
       cut=st.integers(0, 1 << 30), cuts=st.booleans(), head=st.booleans())
def test_no_damage_gives_another_error(whole, tmp_path, changes, cut, cuts, head):
    """Bytes changed anywhere (or in the first 4 KiB, where the structure is), and the end cut off."""
    raw = bytearray(whole.read_bytes())
    for at, value in changes:
        raw[at % (4096 if head else len(raw))] = value
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw[: cut % len(raw)] if cuts else raw)
    open_whole(path)
