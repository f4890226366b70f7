"""Texts to calibrate on and to evaluate on, never the same part.

Two domains that are on every machine: `austen`, the held-out text of the embedded model, and `python`, the
language's own documentation topics, hard line breaks undone. A text file serves as a third.
"""

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from wordline.compiler.architecture import ModelError

#: Of every text, the first part is for calibration, the rest for evaluation.
CALIBRATION = 1 / 3


@dataclass(frozen=True)
class Text:
    """A text in two parts."""

    name: str
    calibration: str
    evaluation: str


def _parts(name: str, text: str) -> Text:
    """Cut at the first paragraph that begins behind the calibration part."""
    at = text.find("\n", int(len(text) * CALIBRATION)) + 1
    if not at or not text[at:].strip():
        at = int(len(text) * CALIBRATION)
    return Text(name, text[:at], text[at:])


def unwrapped(text: str) -> str:
    """Paragraphs in one line each. What is indented (code, grammar, tables) and headings keep their lines."""
    blocks = re.split(r"\n\s*\n", text)
    joined = []
    for block in blocks:
        lines = block.split("\n")
        plain = not any(line.startswith((" ", "\t")) or re.fullmatch(r"([*=\-^~])\1+", line) for line in lines)
        joined.append(" ".join(line.strip() for line in lines) if plain else block)
    return "\n\n".join(joined)


def austen() -> Text:
    path = Path(str(resources.files("wordline.compiler"))) / "models" / "austen" / "heldout.txt"
    return _parts("austen", path.read_text())


def python() -> Text:
    from pydoc_data.topics import topics

    return _parts("python", "\n\n".join(unwrapped(topics[name].strip()) for name in sorted(topics)))


DOMAINS = {"austen": austen, "python": python}


def read_text(path: Path) -> Text:
    """A file of one's own.

    Raises
    ------
    ModelError
        It is not UTF-8, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: is not a text in UTF-8: {error}") from None
    if not text.strip():
        raise ModelError(f"{path}: is empty")
    return _parts(path.stem, text)
