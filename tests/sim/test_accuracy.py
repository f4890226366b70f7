"""`wordline eval`: what is measured, with what intervals, and that an interrupted run loses nothing."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from wordline.cli.evaluate import settings, verdicts
from wordline.cli.main import app
from wordline.compiler.image import Image, matrices
from wordline.compiler.model import ModelError, load_model
from wordline.compiler.places import check
from wordline.pe.datatypes import WEIGHT_TYPES
from wordline.rtl.config import TypesConfig, load_config
from wordline.sim import accuracy
from wordline.sim.accuracy import Evaluation, Result, Setting, Store, cost, weight_bits, windows
from wordline.sim.evaluate import Summary, Tokens, difference, kl_divergence, mean_interval
from wordline.sim.hardware_model import HardwareModel
from wordline.sim.texts import DOMAINS, Text, read_text, unwrapped


@pytest.fixture(scope="module")
def model():
    return load_model("austen")


@pytest.fixture(scope="module")
def texts():
    return [make() for make in DOMAINS.values()]


def evaluation(model, texts, path=None, **more) -> Evaluation:
    return Evaluation(model, texts, **({"tokens": 64, "window": 32, "store": Store(path)} | more))


def quiet(what: str, done: int, total: int) -> None:
    pass


# --- Measures and intervals.

def test_divergence_and_loss_of_known_distributions():
    p, q = np.array([0.5, 0.25, 0.25]), np.array([0.25, 0.25, 0.5])
    ids = np.array([0, 2, 0])
    source, ours = np.log(np.tile(p, (3, 1))) + 7, np.log(np.tile(q, (3, 1))) - 3  # a constant changes nothing
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert np.allclose(kl_divergence(source, ours), expected)
    t = Tokens.compare(source, ours, ids)
    assert len(t) == 2 and np.allclose(t.kl, expected) and np.allclose(t.agree, 0)
    assert np.allclose(t.source_nats, -np.log([0.25, 0.5])) and np.allclose(t.nats, -np.log([0.5, 0.25]))
    same = Summary.of(Tokens.compare(source, source, ids))
    assert same.kl.value == same.kl.high == 0 and same.relative.value == 1 and same.top1.low == 1


def test_intervals_hold_the_mean_as_often_as_they_say():
    """Of 200 samples of dependent numbers, the true mean lies within about 95 %; with blocks of one, in far fewer."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        steps = rng.standard_normal(600)
        values = np.convolve(steps, np.ones(4), "valid")  # each number shares three of four terms with the next
        i = mean_interval(values)
        assert i.low < i.value < i.high
        inside += i.low <= 0 <= i.high
    assert 176 <= inside <= 199


def test_a_difference_uses_that_the_tokens_are_the_same():
    rng = np.random.default_rng(1)
    kl = rng.exponential(1.0, 512)
    zero = np.zeros(512)
    a, b = Tokens(zero, zero, kl, zero), Tokens(zero, zero, kl + 0.01 + 0.001 * rng.standard_normal(512), zero)
    assert Summary.of(a).kl.overlaps(Summary.of(b).kl)
    d = difference(b, a)
    assert 0.009 < d.low < d.value < d.high < 0.011
    with pytest.raises(ValueError, match="512 and 2 tokens"):
        difference(a, Tokens(*(x[:2] for x in (zero, zero, kl, zero))))


# --- What is evaluated.

def test_texts_have_two_parts_and_no_hard_line_breaks(texts, tmp_path):
    for text in texts:
        assert len(text.calibration) > 8000 and len(text.evaluation) > 16000
        assert text.evaluation[:200] not in text.calibration
    assert unwrapped("a\nb\n\n   x = 1\n   y\n\nTitle\n=====\n\nc\nd") == "a b\n\n   x = 1\n   y\n\nTitle\n=====\n\nc d"
    assert "An identifier occurring as an atom is a name.  See section" in texts[1].calibration  # was on two lines
    (tmp_path / "t.txt").write_text("one\n" * 30)
    text = read_text(tmp_path / "t.txt")
    assert text.calibration + text.evaluation == "one\n" * 30 and text.evaluation.startswith("one")
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ModelError, match="t.txt: is not a text in UTF-8"):
        read_text(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_text(" ")
    with pytest.raises(ModelError, match="t.txt: is empty"):
        read_text(tmp_path / "t.txt")


def test_windows_are_whole_and_within_what_the_model_sees(model, texts):
    found = windows(model, texts, 100, 32)
    assert [(w.text, w.number, len(w.ids)) for w in found] == [
        (name, i, 32) for name in ("austen", "python") for i in range(4)]
    with pytest.raises(ModelError, match="a window of 512 tokens: austen sees 2 to 256"):
        windows(model, texts, 100, 512)
    with pytest.raises(ModelError, match="text 'short' has . tokens"):
        windows(model, [Text("short", "a", "b")], 100, 32)


def test_bits_per_weight_have_all_metadata():
    for name, bits in {"int4": 4 + 8 / 64, "int4_asym": 4 + 16 / 64, "bitmod_fp3": 3 + 10 / 64,
                       "ternary": 1.6 + 8 / 64}.items():
        assert weight_bits(WEIGHT_TYPES[name], (10, 640), 64) / 6400 == pytest.approx(bits + 32 / 640)
    assert weight_bits(WEIGHT_TYPES["int4"], (1, 100), 64) == 400 + 2 * 8 + 32  # a short group has a scale too


def test_bytes_are_those_of_the_image_but_for_its_padding(model):
    """What the array streams is no less, and only a little more."""
    config = load_config("bitmod")
    image = Image(model, config, check(model.config, config, 64), 64, logits=False)
    streamed = model.config.layers * sum(image.matrices[name].size for name in matrices(model.config)) + image.head.size
    ours = cost(model, Setting("bitmod_fp4", head="bitmod_fp4"), 0).bytes_per_token
    assert ours <= streamed < 1.3 * ours


def test_settings_are_every_axis_from_one_corner():
    found = settings(["int4", "int3"], [8, 4], [8, 4], [("awq",)], head="int8", group_size=64)
    assert [s.name for s in found] == ["int4 A8 KV8", "int3 A8 KV8", "int4 A4 KV8", "int4 A8 KV4", "int4 A8 KV8 awq",
                                       "int3 A8 KV8 awq"]


def test_what_is_measured_is_the_hardware(model, texts):
    """The same as of a fresh `HardwareModel`, also where matrices were kept from the setting before."""
    run = evaluation(model, texts)
    chosen = [Setting("int4"), Setting("int4", acts=4), Setting("int3", kv=4), Setting("int3", head="int3")]
    for setting, result in zip(chosen, run.run(chosen, quiet), strict=True):
        types = TypesConfig(weights=setting.weights, head=setting.head, acts=setting.acts)
        hardware = HardwareModel(model, types, kv_bits=setting.kv)
        parts = [Tokens.compare(run._source_logits(i), hardware.logits(w.ids), w.ids)
                 for i, w in enumerate(run.windows)]
        assert np.array_equal(result.tokens["all"].kl, Tokens.join(parts).kl), setting.name
        assert len(result.tokens["austen"]) == 62


def test_windows_longer_than_a_sliding_window(model, texts):
    """The text goes on behind it; what the cache costs does not. The float model sees the same."""
    sliding = replace(model, config=replace(model.config, sliding_window=16, local_layers=(0, 2)))
    run = evaluation(sliding, texts)
    (result,) = run.run([Setting("int8", acts=16)], quiet)
    (plain,) = evaluation(model, texts).run([Setting("int8", acts=16)], quiet)
    assert result.summaries["all"].kl.value < 0.01
    assert not np.allclose(result.tokens["all"].source_nats, plain.tokens["all"].source_nats, atol=0.01)
    c = model.config
    assert plain.cost.bytes_per_token - result.cost.bytes_per_token == 2 * c.kv_heads * 16 * (2 * c.head_dim + 8)
    with pytest.raises(ModelError, match="sliding window of 16; .* use --window 16 or --kv 8"):
        next(run.run([Setting("int8"), Setting("int8", kv=4)], quiet))


def test_narrower_caches_are_worse(model, texts):
    results = list(evaluation(model, texts, tokens=128).run([Setting("int8", kv=k) for k in (16, 8, 4, 2)], quiet))
    kl = [r.summaries["all"].kl.value for r in results]
    assert kl[0] < kl[2] < kl[3] and abs(kl[1] - kl[0]) < 0.01


# --- Resuming.

def test_an_interrupted_run_goes_on_where_it_was(model, texts, tmp_path, monkeypatch):
    path = tmp_path / "partial.jsonl"
    chosen = [Setting("int4"), Setting("int3")]
    whole = list(evaluation(model, texts).run(chosen, quiet))

    def stop(what: str, done: int, total: int) -> None:
        if done == 5 and "python" not in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(evaluation(model, texts, path).run(chosen, stop))
    finished = path.read_text().splitlines()
    assert len(finished) == 5
    path.write_text("\n".join(finished) + '\n{"key": "half a li')  # as if it had been killed while writing
    calls = []
    real = HardwareModel.logits
    monkeypatch.setattr(HardwareModel, "logits", lambda self, ids: calls.append(1) or real(self, ids))
    again = list(evaluation(model, texts, path).run(chosen, quiet))
    assert len(calls) == 8 - 5
    for a, b in zip(again, whole, strict=True):
        assert np.allclose(a.tokens["all"].kl, b.tokens["all"].kl, rtol=1e-6, atol=1e-12)
    calls.clear()
    assert len(list(evaluation(model, texts, path).run(chosen, quiet))) == 2 and not calls


def test_another_model_or_text_or_type_is_measured_anew(model, texts):
    run = evaluation(model, texts)
    first, second = run.windows[:2]
    keys = {run._key(Setting("int4"), first), run._key(Setting("int4"), second), run._key(Setting("int3"), first)}
    other = replace(model, tensors=dict(model.tensors) | {"model.norm.weight": model.tensors["model.norm.weight"] * 2})
    keys.add(evaluation(other, texts)._key(Setting("int4"), first))
    assert len(keys) == 4
    assert accuracy.fingerprint(model) != accuracy.fingerprint(other)


# --- The command.

def test_the_command_prints_a_table_and_json(tmp_path):
    args = ["eval", "austen", "--dtypes", "int4,FP3", "--tokens", "32", "--window", "32"]
    args += ["--out", str(tmp_path / "a.jsonl")]
    result = CliRunner().invoke(app, [*args, "--kv", "8,4"])
    assert result.exit_code == 0, result.stderr
    assert "bitmod_fp3" in result.stdout and "source F32: perplexity" in result.stdout and "62 tokens" in result.stdout
    report = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    first = report["results"][0]
    assert first["weights"] == "int4" and report["level"] == 0.95
    kl = first["texts"]["all"]["kl"]
    assert 0 <= kl["low"] <= kl["value"] <= kl["high"]


@pytest.mark.parametrize(("args", "message"), [
    (["--dtypes", "int99"], "--dtypes 'int99': there are fp4"), (["--acts", "7"], "--acts '7': only 16, 8, 4"),
    (["--kv", "3"], "--kv '3': only 16, 8, 4, 2"), (["--window", "999"], "a window of 999 tokens"),
    (["--text", "/nowhere/text"], "No such file"), (["--group-size", "48"], "group_size = 48 is not allowed"),
])
def test_errors_are_one_line(args, message, tmp_path):
    result = CliRunner().invoke(app, ["eval", "austen", *args, "--out", str(tmp_path / "a.jsonl")])
    assert result.exit_code == 1 and message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_a_quantiser_is_called_better_only_outside_the_interval(model):
    rng = np.random.default_rng(2)
    kl, zero = rng.exponential(1.0, 256), np.zeros(256)

    def result(quantizers: tuple[str, ...], shift: np.ndarray) -> Result:
        return Result(Setting("int4", quantizers=quantizers), cost(model, Setting("int4"), 0),
                      {"all": Tokens(zero, zero, kl + shift, zero)})

    noise = rng.standard_normal(256)
    lines = verdicts([result((), zero), result(("a",), noise - noise.mean()), result(("b",), 0.1 * noise - 0.5),
                      result(("c",), 0.1 * noise + 0.5)])
    assert [line.rpartition(": ")[2] for line in lines] == ["no difference", "better", "worse"]


def test_a_new_field_with_a_default_loses_no_measurement(model, monkeypatch):
    """The fields of a model that have their defaults do not tell it from others."""
    before = accuracy.fingerprint(model)
    plain = [f.name for f in fields(model.config) if getattr(model.config, f.name) == f.default]
    assert plain
    monkeypatch.setattr(accuracy, "fields", lambda config: [f for f in fields(config) if f.name not in plain])
    assert accuracy.fingerprint(model) == before
