"""`wordline time`, `energy`, `dram` and `verify`, as a user calls them."""

import json

import pytest
from typer.testing import CliRunner

from wordline.cli.main import app

runner = CliRunner()


def call(*args: str) -> str:
    result = runner.invoke(app, list(args))
    assert result.exit_code == 0 and result.exception is None, result.output
    return result.stdout


def refused(*args: str) -> str:
    result = runner.invoke(app, list(args))
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("batch", [1, 3])
def test_time_of_a_step(batch):
    report = json.loads(call("time", "bitmod", "austen", "--context", "64", "--batch", str(batch), "--json",
                             "--set", "dram.kind=ddr4-2400"))
    step = report["decode"]
    assert report["batch"] == step["tokens"] == batch
    assert 0 < step["bandwidth_utilisation"] < 1
    assert step["seconds"] == pytest.approx(step["seconds_per_token"] * batch)
    assert all(sum(causes.values()) == step["cycles"] for causes in step["causes"].values())


@pytest.mark.parametrize("decode", ["1", "8"])  # the first token comes with the prompt's last step
def test_time_of_a_request(decode):
    text = call("time", "bitmod", "austen", "--prefill", "9", "--decode", decode)
    assert "prefill: 9 tokens in" in text and ("decode: 8 tokens in" in text) == (decode == "8")


def test_energy_and_its_files(tmp_path):
    tree = json.loads(call("energy", "bitmod", "austen", "--context", "64", "--json", "-o", str(tmp_path)))
    assert json.loads((tmp_path / "energy.json").read_text()) == tree
    assert (tmp_path / "energy.svg").stat().st_size > 1000


def test_dram_list_and_export(tmp_path):
    assert "ddr4-2400" in json.loads(call("dram", "list", "--json"))
    trace = tmp_path / "a.trace"
    assert "takes" in call("dram", "export", "ddr4-2400", "-n", "100", "-o", str(trace))
    assert len(trace.read_text().splitlines()) == 100


def test_what_cannot_be_is_refused_by_name():
    assert "batch = 9: every sequence takes a row of the array, array.rows = 4" in refused(
        "time", "bitmod", "austen", "--batch", "9")
    assert "llama-9" in refused("time", "bitmod", "llama-9")
    assert "ddr9" in refused("dram", "export", "ddr9")
    assert "ddr9" in refused("energy", "bitmod", "austen", "--set", "dram.kind=ddr9")
