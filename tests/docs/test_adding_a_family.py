"""The family that docs/adding-a-family.md adds, taken out of the page, is verified as any other."""

import importlib
import re
from pathlib import Path

import pytest

from wordline.pe import family
from wordline.sim import pe_verify

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-family.md"


def test_the_example_passes(tmp_path, monkeypatch):
    text = PAGE.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert code.count("\n") < 100
    (tmp_path / "nibble.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    name, target = re.search(r'"(\w+)": "wordline\.pe\.(nibble:\w+)"', text).groups()
    with pytest.raises(ValueError, match="no PE family 'nibble'"):
        family.family(name)
    monkeypatch.setitem(family.FAMILIES, name, target)
    reports = list(pe_verify.verify(name, groups=60))
    family.family.cache_clear()
    assert {r.kind for r in reports} == {"INT8", "INT7", "INT6", "INT5", "INT4", "INT3", "INT2"}
    for report in reports:
        assert report.passed, report
