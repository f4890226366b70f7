"""The command line, as a user calls it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from wordline.cli.main import app

runner = CliRunner()


def call(*args: str):
    return runner.invoke(app, list(args))


def test_run_prints_text_and_json():
    result = call("run", "ulx3s", "austen", "--tokens", "4", "--no-accuracy", "--prompt", "It was a truth")
    assert result.exit_code == 0 and result.stdout.startswith("It was a truth")
    result = call("run", "ulx3s", "austen", "--tokens", "4", "--json", "--set", "types.weights=int8")
    report = json.loads(result.stdout)
    assert len(report["tokens"]) == report["prompt_tokens"] + 4
    assert report["types"]["weights"] == "int8"
    assert 1.0 < report["accuracy"]["relative"] < 1.02


def test_errors_are_one_line_and_exit_1(tmp_path):
    for args, message in [
        (("run", "nope", "austen"), "no configuration 'nope'"),
        (("run", "ulx3s", "nope"), "no model 'nope'"),
        (("run", "ulx3s", "austen", "--set", "array.rows=99"), "array.rows = 99 is not allowed"),
        (("run", "ulx3s", "austen", "--tokens", "400"), "do not fit the context of 256"),
        (("disasm", str(tmp_path / "absent.wlp")), "not a readable program file"),
    ]:
        result = call(*args)
        assert result.exit_code == 1, args
        assert message in " ".join(result.stderr.split()), result.stderr
        assert "Traceback" not in result.stderr


def test_compile_and_disasm(tmp_path):
    path = tmp_path / "a.wlp"
    assert call("compile", "ulx3s", "austen", "-o", str(path)).exit_code == 0
    text = call("disasm", str(path)).stdout
    assert text.startswith(".hardware ") and "CONTROL operation=END" in text and ".data" not in text


def test_gen_writes_the_same_verilog_every_time(tmp_path):
    for name in ("a", "b"):
        assert call("gen", "ulx3s", "-o", str(tmp_path / name)).exit_code == 0
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["accelerator.v", "column.v", "manifest.json"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert str(Path.cwd()) not in (tmp_path / "a" / "accelerator.v").read_text()


def test_pe_list():
    rows = json.loads(call("pe", "list", "--json", "--lanes", "4").stdout)
    intervals = {(row["family"], row["kind"]): row["interval"] for row in rows}
    # BitMoD, Table IV: 4 weights in 4 cycles at INT8, 3 at INT6, 2 at FP4 and FP3.
    assert [intervals["bit_serial", kind] for kind in ("INT8", "INT6", "FP4", "FP3")] == [4, 3, 2, 2]
    assert {v for (name, _), v in intervals.items() if name == "mac"} == {1}
