# Two commands for a fresh clone: `make demo` trains a small model on the CPU, `make test` runs the tests.
# Needs Python >= 3.11 with venv, make and g++.
PYTHON ?= python3
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/countdown_tiny
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint install
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned: otherwise another package may pull a different build of several gigabytes
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/accelerate launch --config_file configs/accelerate/cpu.yaml --num_cpu_threads_per_process $(CORES) \
	    recipes/countdown_adaptive.py --config recipes/countdown_tiny.yaml --resume never
	$(BIN)/tinyzero-trl report $(DEMO) --out $(DEMO)-report
	@echo "Page:     $(DEMO)-report/index.html"

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/pre-commit run --all-files
