# make demo   a whole competition on made-up videos, in a few minutes
# make test   formatter, linter, types, tests: the line that CI runs
# make bench  the benchmark tables

PYTHON ?= python3
BIN := .venv/bin
REAL_DATA := $(wildcard ../shared/data)
export YT8M_REAL_DATA ?= $(abspath $(REAL_DATA))
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test bench results clean

demo: .venv/run-installed
	$(BIN)/python -m tools.demo --directory=demo

test: .venv/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: .venv/dev-installed
	for program in $$(grep -l __main__ benchmarks/*.py); do PYTHONPATH=. $(BIN)/python $$program || exit 1; done

results: .venv/dev-installed
	$(BIN)/python -m tools.results

clean:
	rm -rf .venv demo runs .mypy_cache .ruff_cache .hypothesis

.venv/run-installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("error: Python %d.%d: TensorFlow has wheels for Python 3.11 to 3.13. Name one of them, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/dev-installed: .venv/run-installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
