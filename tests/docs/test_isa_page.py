"""docs/isa.md says what rtl/isa.py says."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_isa_page_is_current():
    spec = importlib.util.spec_from_file_location("make_isa", DOCS / "make_isa.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "isa.md").read_text() == module.render(), "run python docs/make_isa.py"
