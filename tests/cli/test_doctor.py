"""``wordline doctor`` tells what is missing, and fails only when it has to."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.sim import toolchain


def run(*args):
    return CliRunner().invoke(app, ["doctor", *args])


def hide(monkeypatch, name):
    def absent():
        raise toolchain.MissingTool(name, "somehow")

    monkeypatch.setattr(toolchain, name, absent)


def test_everything_required_is_here():
    result = run("--json")
    findings = {finding["name"]: finding for finding in json.loads(result.stdout)}
    assert result.exit_code == 0, [name for name, found in findings.items() if not found["ok"]]
    assert findings["verilator"]["required"]


@pytest.mark.parametrize(("name", "exit_code"), [("verilator", 1), ("yosys", 0)])
def test_only_a_missing_required_tool_fails(monkeypatch, name, exit_code):
    hide(monkeypatch, name)
    result = run("--json")
    assert result.exit_code == exit_code
    assert {f["name"]: f["ok"] for f in json.loads(result.stdout)}[name] is False


def test_table_shows_the_command_that_installs(monkeypatch):
    hide(monkeypatch, "yosys")
    monkeypatch.setenv("COLUMNS", "200")
    assert "pip install 'wordline[boards]'" in run().stdout
