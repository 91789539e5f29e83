# Everything a newcomer needs: `make serve` and `make test`. See README.md.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: serve test test-quick lint bench clean

serve: $(VENV)/.service
	$(BIN)/calotype serve

test: $(VENV)/.tests
	$(BIN)/python -m ops.need nginx-light qemu-utils
	$(BIN)/python -m pytest

test-quick: $(VENV)/.tests
	$(BIN)/python -m pytest -m "not slow" tests/test_layout.py tests/commands tests/projections tests/http

lint: $(VENV)/.tests
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.tests
	$(BIN)/calotype bench

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.tests: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	touch $@ $(VENV)/.service

clean:
	rm -rf $(VENV) build dist *.egg-info
