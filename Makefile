# Everything runs from here; `make demo` is the place to begin. Paths stay relative, so a clone may lie anywhere.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.8
export UV_LINK_MODE := copy
export UV_SYSTEM_CERTS ?= true
export DAGSTER_DISABLE_TELEMETRY := 1
DEMO := .mailmill/demo

.DEFAULT_GOAL := help
.PHONY: help demo up test test-system faults explore check bench lock clean

help:  ## these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or newer is needed; found: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -c '' 2>/dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV) || \
	  { echo "make: python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }; }
	@$(BIN)/python -m uv --version 2>/dev/null | grep -qF '$(UV_VERSION)' || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing the locked packages into $(VENV)"
# compiled once: where PYTHONDONTWRITEBYTECODE is set, as in many containers, each verb would compile them again (6 s)
	@VIRTUAL_ENV=$(VENV) $(BIN)/python -m uv pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements-dev.lock
	@$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q mailmill
	@touch $(STAMP)

demo: $(STAMP)  ## the whole way with two tenants, on embedded defaults; then the result
	@$(BIN)/python examples/demo/run.py

up: $(STAMP)  ## servers and user interface over what the demo made; Ctrl-C stops all
	@test -d $(DEMO) || { echo "make: run make demo first; it makes the project that this opens"; exit 1; }
	@cd $(DEMO) && ../../$(BIN)/mailmill up

test: $(STAMP)  ## unit, contract and flow tests over real services; those that carry a fault's number are `make faults`'
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder -m "not system and not faults and not numbered"

test-system: $(STAMP)  ## whole installations: deploy/, mailmill up, pages in a real browser, every command of docs/
	@scripts/debian.sh chromium=chromium
	@$(BIN)/python -m pytest -q -m system

faults: $(STAMP)  ## kills and outages of real processes
	@$(BIN)/python -m pytest -q -m "faults or numbered"

explore: $(STAMP)  ## the property tests with examples drawn anew
	@$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=explore

check: $(STAMP)  ## ruff, mypy --strict, the rooms' imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

bench: $(STAMP)  ## one benchmark: make bench BENCH=name
	@test -f "benchmarks/$(BENCH).py" || { echo "make: no benchmark '$(BENCH)'; there are: $$(ls benchmarks/*.py 2>/dev/null | xargs -rn1 basename -s .py | xargs)"; exit 1; }
	@$(BIN)/python benchmarks/$(BENCH).py

lock: $(STAMP)  ## resolve the dependencies of pyproject.toml anew
	@for x in "requirements.lock:" "requirements-dev.lock:--extra dev"; do \
	  $(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
	    --no-emit-find-links --no-annotate --custom-compile-command "make lock" $${x#*:} pyproject.toml -o $${x%%:*}; done

clean:  ## remove what was made, the demo's data included
	@test ! -d $(DEMO) || test ! -x $(BIN)/mailmill || (cd $(DEMO) && ../../$(BIN)/mailmill down >/dev/null)
	@rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
