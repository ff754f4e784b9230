# Sets itself up in .venv on a fresh machine (Python 3.11 or newer). Try: make quickstart

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help quickstart test check bench clean

help:
	@echo "make quickstart   install, distill handwritten digits; then open the report it prints"
	@echo "make test         install, run the tests"
	@echo "make check        ruff, mypy, direction of imports"
	@echo "make bench        time this library against a plain implementation, and check plans against runs (an hour);"
	@echo "                  with PEERS=FOLDER also the authors' own scripts (see benchmarks/authors.py)"

$(READY): pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit('datastill needs Python 3.11 or newer; try: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

quickstart: $(READY)
	$(BIN)/datastill quickstart

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

bench: $(READY)
	$(BIN)/python benchmarks/startup.py
	GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/bench.py
	GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/guidance.py
	GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/foresight.py
	GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/trajectory.py
	GOMP_SPINCOUNT=1000 $(BIN)/python benchmarks/sdc.py
	$(if $(PEERS),$(BIN)/python benchmarks/authors.py $(PEERS))

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
