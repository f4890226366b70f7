"""The wheel, installed where nothing of the checkout is in sight."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy to build from: setuptools leaves its build folder behind and ships it the next time."""
    source = tmp_path_factory.mktemp("source")
    for folder in FOLDERS.values():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    for path in [ROOT / "pyproject.toml", ROOT / "LICENSE", *ROOT.glob("README.md")]:
        shutil.copy(path, source)
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, "."]
    run(*command, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> tuple[Path, Path]:
    """A fresh environment that borrows the dependencies, but no .pth file, of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "-q", "--disable-pip-version-check"]
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, site


def test_wheel_holds_every_file_of_the_folders(source, wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = set()
    for package, folder in FOLDERS.items():
        for path in (source / folder).rglob("*"):
            if path.is_file():
                inside = path.relative_to(source / folder).as_posix()
                expected.add(f"{package.replace('.', '/')}/{inside}")
    assert expected - held == set()


def test_only_wordline_lands_in_site_packages(installed):
    _, site = installed
    names = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"wordline", "dependencies.pth"}


def test_installed_packages_import_from_anywhere(installed, tmp_path):
    python, site = installed
    for package in FOLDERS:
        script = f"import {package} as package; print(package.__file__)"
        assert Path(run(python, "-c", script, cwd=tmp_path).strip()).is_relative_to(site)


def test_installed_command_runs_outside_the_checkout(installed, tmp_path):
    python, _ = installed
    version = run(python.parent / "wordline", "--version", cwd=tmp_path)
    assert version.strip() == f"wordline {PROJECT['project']['version']}"


def test_installed_configurations_are_found(installed, tmp_path):
    python, site = installed
    for path in (ROOT / "configs").glob("*.toml"):
        script = f"from wordline.rtl.config import find_config; print(find_config({path.stem!r}))"
        found = Path(run(python, "-c", script, cwd=tmp_path).strip())
        assert found.is_relative_to(site)
