# make demo     a whole competition on made-up videos, in a few minutes
# make check    formatter, linter, types: seconds
# make fix      what the formatter and the linter can mend by themselves
# make test     check, then all tests on all cores: the line that CI runs
#               make test ARGS="-k NetVLAD"       some of them
#               make test ARGS="-m 'not slow'"    without those that take longest
# make bench    the benchmark tables
# make results  the models measured again on real data
# make pins     requirements*.txt, compiled from requirements*.in
# Every target installs what it needs.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
REAL_DATA := $(wildcard ../shared/data)
export YT8M_REAL_DATA ?= $(abspath $(REAL_DATA))
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo check fix test bench results pins clean

demo: .venv/report-installed
	$(BIN)/python -m tools.demo --directory=demo

check: .venv/dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: .venv/dev-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal $(ARGS)

bench: .venv/dev-installed
	for program in $$(grep -l __main__ benchmarks/*.py); do PYTHONPATH=. $(BIN)/python $$program || exit 1; done

results: .venv/dev-installed
	$(BIN)/python -m tools.results

PIN := $(BIN)/uv pip compile --quiet --annotation-style=line --custom-compile-command='make pins'
# The last ones go beside either set of versions, so they leave out what both have.
IN_BOTH_SETS = $$(sed -n "/>=/!s/^\([a-z0-9-]*\)==.*/--no-emit-package=\1/p" requirements.txt)

pins: .venv/dev-installed
	$(PIN) --universal --python-version=3.11 requirements.in -o requirements.txt
	$(PIN) --python-version=3.13 --python-platform=linux requirements.in -o requirements-newest.txt
	$(PIN) --universal --python-version=3.11 requirements-dev.in -o requirements-dev.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-video.in -o requirements-video.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-remote.in -o requirements-remote.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-parquet.in -o requirements-parquet.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-export.in -o requirements-export.txt $(IN_BOTH_SETS)
	$(PIN) --python-version=3.11 --python-platform=linux requirements-beam.in -o requirements-beam.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-report.in -o requirements-report.txt $(IN_BOTH_SETS)
	$(PIN) --universal --python-version=3.11 requirements-tune.in -o requirements-tune.txt $(IN_BOTH_SETS)

clean:
	rm -rf .venv demo runs .mypy_cache .ruff_cache .hypothesis

.venv/run-installed: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("error: Python %d.%d: TensorFlow has wheels for Python 3.11 to 3.13. Name one of them, as in: make PYTHON=python3.12 $(MAKECMDGOALS)" % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/report-installed: .venv/run-installed requirements-report.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-report.txt
	touch $@

OPTIONAL := $(addprefix requirements-,$(addsuffix .txt,dev video remote parquet export report tune))
.venv/dev-installed: .venv/run-installed $(OPTIONAL)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(OPTIONAL:%=-r %)
	touch $@
