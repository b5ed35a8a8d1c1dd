# Two commands set everything up: `make demo` and `make test`. Both only need Python 3.11 to 3.13.
# The first that is new enough; `make PYTHON=... demo` takes another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# One thread: with a core busy elsewhere, torch's two threads run far slower than one.
export OMP_NUM_THREADS ?= 1

# The quick ones first; all together take about an hour. A quiet machine is needed for figures that can be quoted.
BENCHES := startup runs compare report ssim crops order step ftd_step precision checkpoint_cost sr demosaic lens bvae sar_codec demo

.DEFAULT_GOAL := help
.PHONY: help demo test install lint types layers pytest docs bench clean

help:
	@echo "make demo    build a small dataset, train two models, draw and compare them (6 minutes after the installation)"
	@echo "make test    install what the checks need, and run them all"
	@echo "make bench   measure what the documentation claims; figures go to bench/results"
	@echo "make docs    write the generated pages of docs again"
	@echo "make install only make $(VENV) and install"
	@echo "make clean   remove $(VENV) and caches"

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "mlkit needs Python 3.11, 3.12 or 3.13 as python3.11 (or ...) in PATH; found none"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python bench/demo.py

test: lint types layers pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/python -m pytest tests/test_layers.py

pytest: install
	$(BIN)/python -m pytest -n 2 --durations=8

docs: install
	$(BIN)/python docs/generate.py

bench: install
	@missed=; for name in $(BENCHES); do \
		echo; echo "== bench/$$name.py"; \
		$(BIN)/python bench/$$name.py --json || missed="$$missed $$name"; \
	done; \
	test -z "$$missed" || { echo; echo "a goal was missed, or it failed:$$missed"; exit 1; }

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
