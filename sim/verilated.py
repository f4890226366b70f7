"""Verilog and a C++ harness through Verilator into a shared library, compiled once and kept in the cache."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from wordline.sim import toolchain

_FLAGS = ["-O3", "--x-assign", "0", "--x-initial", "0", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style",
          "-CFLAGS", "-fPIC"]
#: Columns as functions that all instances share, which optimising after scoping would undo, and no huge function: half
#: the compile time, and less code for the processor's cache.
SHARED_COLUMNS = ["--inline-mult", "1", "--output-split-cfuncs", "500", "-fno-dfg-scoped"]
_OPTIMISE = ["OPT_FAST=-O2", "OPT_SLOW=-O0"]  # slow: what runs once


def library(texts: Mapping[str, str], top: str, harness: Path, headers: Sequence[Path] = (), *,
            flags: Sequence[str] = (), defines: Sequence[str] = (), say: Callable[[], object] = lambda: None) -> Path:
    """The shared library of `harness` and the Verilated module `top`, whose class is ``V`+ `top`.

    Parameters
    ----------
    texts : file name -> Verilog
    headers : what the harness includes besides Verilator's own, out of its folder
    flags, defines : for Verilator, for the C++ compiler of the harness
    say : called before something is compiled
    """
    verilator = toolchain.verilator()
    native = [path.read_text() for path in (harness, *headers)]
    arguments = [*_FLAGS, *flags]
    digest = hashlib.sha256(repr((sorted(texts.items()), native, verilator.version, arguments, _OPTIMISE,
                                  list(defines))).encode()).hexdigest()[:20]
    result = toolchain.cache_dir() / f"{top}-{digest}.so"
    if result.exists():
        return result
    say()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in texts.items():
            (folder / name).write_text(text)
        verilator.run(["--cc", *arguments, "--top-module", top, "--Mdir", "obj", "--prefix", f"V{top}",
                       *sorted(texts)], cwd=folder)
        with verilator.on_path():
            toolchain.make().run([f"-j{os.cpu_count()}", "-C", "obj", "-f", f"V{top}.mk", *_OPTIMISE,
                                  f"libV{top}.a", "libverilated.a"], cwd=folder)
        root = Path(verilator.environment()["VERILATOR_ROOT"])
        toolchain.cxx().run(
            ["-shared", "-fPIC", "-O2", "-std=c++17", *defines, "-Iobj", f"-I{root / 'include'}",
             f"-I{root / 'include' / 'vltstd'}", f"-I{harness.parent}", str(harness), f"obj/libV{top}.a",
             "obj/libverilated.a", "-lpthread", "-o", f"{top}.so"], cwd=folder)
        fresh = result.with_suffix(f".{os.getpid()}")
        shutil.copy(folder / f"{top}.so", fresh)
        fresh.replace(result)
    return result
