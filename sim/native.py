"""Compiles the C++ beside this package into shared libraries, once per content."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from wordline.sim import toolchain

_FLAGS = ["-shared", "-fPIC", "-O3", "-std=c++17", "-Wall", "-Wextra"]


def shared_library(source: Path, *, headers: Sequence[Path] = (), generated: Mapping[str, str] | None = None) -> Path:
    """The library of one source file, from the cache or compiled now.

    Parameters
    ----------
    headers : files of the source's folder that it includes
    generated : texts of headers that exist only here, by name

    Raises
    ------
    MissingTool, ToolFailed
        There is no C++ compiler, or it refuses the source.
    """
    generated = generated or {}
    compiler = toolchain.cxx()
    texts = [source.read_text(), *(h.read_text() for h in headers), *generated.values()]
    digest = hashlib.sha256(repr((texts, compiler.version, _FLAGS)).encode()).hexdigest()[:20]
    library = toolchain.cache_dir() / f"{source.stem}-{digest}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in generated.items():
            (folder / name).write_text(text)
        compiler.run([*_FLAGS, f"-I{source.parent}", f"-I{folder}", str(source), "-o", "fresh.so"], cwd=folder)
        fresh = library.with_suffix(f".{os.getpid()}")
        shutil.copy(folder / "fresh.so", fresh)
        fresh.replace(library)
    return library
