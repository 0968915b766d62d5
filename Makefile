# `make demo` and `make test` install what they need into $(VENV).
PYTHON ?= python3
VENV ?= .venv
# A CPU build. With a GPU: make demo TORCH="torch" (or any other pip requirement for torch).
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
READY := $(VENV)/.ecdiff-installed

.PHONY: install demo test test-slow check docs report pair video-pair constraints clean

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

# Both pairs from nothing, with times in docs/reference-pair.md and docs/reference-video.md. An
# interrupted run goes on; the weights are in $(OUT)/final.
DEVICE ?= cpu
pair: OUT := out/pair
pair: TRAIN = $(BIN)/python -m ecdiff.reference.train --resume --device $(DEVICE)
pair: install
	$(TRAIN) vae --fresh --samples 16000 --out $(OUT)/vae
	$(TRAIN) text --samples 70000 --start $(OUT)/vae/weights --out $(OUT)/text
	$(TRAIN) cloud --fresh --samples 240000 --scenes 24576 --start $(OUT)/text/weights --out $(OUT)/cloud
	$(TRAIN) edge --fresh --samples 120000 --scenes 24576 --start $(OUT)/cloud/weights --out $(OUT)/edge
	$(TRAIN) classifier --samples 240000 --start $(OUT)/vae/weights --out $(OUT)/classifier
	mkdir -p $(OUT)/final
	cp -r $(OUT)/edge/weights/. $(OUT)/classifier/weights/. $(OUT)/final

video-pair: OUT := out/video-pair
video-pair: TRAIN = $(BIN)/python -m ecdiff.reference.video.train --resume --device $(DEVICE)
video-pair: install
	$(TRAIN) vae --fresh --decoder-only --samples 6000 --out $(OUT)/vae
	$(TRAIN) cloud --fresh --samples 240000 --start $(OUT)/vae/weights --out $(OUT)/cloud
	$(TRAIN) edge --fresh --samples 50000 --start $(OUT)/cloud/weights --out $(OUT)/edge
	$(TRAIN) classifier --samples 32000 --start $(OUT)/vae/weights --out $(OUT)/classifier
	mkdir -p $(OUT)/final
	cp -r $(OUT)/edge/weights/. $(OUT)/classifier/weights/. $(OUT)/final

# Pin what is installed now; torch stays the Makefile's choice.
constraints: install
	$(BIN)/python -m pip freeze --exclude-editable --exclude torch >constraints.txt

clean:
	rm -rf $(VENV) out dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
