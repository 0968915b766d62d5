# `make demo` and `make test` install what they need into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# A CPU build. With a GPU: make demo TORCH="torch" (or any other pip requirement for torch).
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
READY := $(VENV)/.ecdiff-installed

.PHONY: install demo test test-slow check docs report constraints clean

install: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ecdiff needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	mkdir -p out
	$(BIN)/ecdiff generate "a big red house in the snow" --seed 7 --compare --out out/demo.png

test: check
	$(BIN)/python -m pytest -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -m slow

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/typer ecdiff.cli utils docs --name ecdiff --output $(VENV)/cli.md >/dev/null
	diff docs/cli.md $(VENV)/cli.md || (echo 'docs/cli.md is behind the CLI: run make docs' >&2; exit 1)

docs: install
	$(BIN)/typer ecdiff.cli utils docs --name ecdiff --output docs/cli.md

# The reference pair's plan, tables and figures. Goes on where it was interrupted: what is measured
# stays in out/report; `rm -r out/report` to measure anew.
report: install
	$(BIN)/ecdiff tune --out out/report/tune
	$(BIN)/python -m ecdiff.bench report --plan out/report/tune/plan.json --run out/report

# Pin what is installed now; torch stays the Makefile's choice.
constraints: install
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch >constraints.txt

clean:
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
