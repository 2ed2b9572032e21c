# `make demo` and `make test` do everything from a fresh clone; PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := -c 'import sys; print("%d%d" % sys.version_info[:2])'
STAMP := $(VENV)/.installed

PARALLEL := -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all lint setup clean

demo: $(STAMP)
	$(BIN)/ferrojax demo --out demo-out

test: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL) -m "not study"

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

setup: $(STAMP)

$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@test -x $(BIN)/python || test -f constraints/py$$($(PYTHON) $(VERSION)).txt || \
		{ echo "error: PYTHON: $(PYTHON) is not Python 3.11, 3.12 or 3.13; try make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints/py$$($(BIN)/python $(VERSION)).txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo-out .pytest_cache .ruff_cache *.egg-info
