# FedHealth: `make demo` shows it, `make test` proves it, `make help` lists the rest.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/pip --disable-pip-version-check
SPREAD := --numprocesses auto --dist loadfile --no-loadscope-reorder
export FEDHEALTH_DATA ?= $(abspath ../shared/data)
export OMP_NUM_THREADS ?= 1
# Some machines forbid it for all; without bytecode each of the tests' many processes compiles the package, for a second.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch goes first and by its exact version, so that no other package pulls in a larger build.
$(VENV)/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "FedHealth needs Python 3.11 or 3.12, found no '$(PYTHON)'. Set it: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

.PHONY: help install demo test test-fast check format clean

install: $(VENV)/installed  ## make .venv with the pinned dependencies

demo: $(VENV)/installed  ## train across eight hospitals and write the report
	$(BIN)/fedhealth simulate experiment=demo

check: $(VENV)/installed-test  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## style, types and every test
	$(BIN)/pytest --quiet -rs --durations=15 $(SPREAD)

test-fast: $(VENV)/installed-test  ## the tests that need neither minutes nor processes
	$(BIN)/pytest --quiet -m "not slow and not process" $(SPREAD)

format: $(VENV)/installed-test  ## put the code in its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
