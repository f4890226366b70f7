# Everything runs in .venv, which is made on first use from PyPI: a machine needs Python 3.11,
# a C++ compiler and make, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test test-all lint bench clean

demo: $(INSTALLED)
	$(BIN)/wordline demo

test: $(INSTALLED)
	$(BIN)/pytest -q -n 2

test-all: $(INSTALLED)
	$(BIN)/pytest -q -n 2 -m ""

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/rates.py
	$(BIN)/python benchmarks/dram.py
	$(BIN)/python benchmarks/bandwidth.py

clean:
	rm -rf .venv build dist results *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,boards]'
	touch $@
