# Two commands set everything up: `make demo` and `make test`. Both only need Python 3.11 to 3.13.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# One thread: with a core busy elsewhere, torch's two threads run far slower than one.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test install lint types layers pytest docs bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
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

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
