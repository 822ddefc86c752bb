# Everything here runs in a virtual environment of the project's own; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV ?= .venv
# The interpreter to build $(VENV) with; empty: the first of python3.11, python3.12, python3 that is 3.11 or 3.12.
PYTHON ?=
# The package index to take torch from, for its CPU or a CUDA build of choice; empty: what pip is configured to use.
TORCH_INDEX ?=
TRAIN_CONFIG ?= configs/small.yaml
NPROC ?= 4
TRAIN_ARGS ?=
PYTEST_ARGS ?=
# Tests side by side; most of them are several processes, each of one thread.
PYTEST_WORKERS ?= 2
SOAK_KILLS ?= 200
SOAK_ARGS ?=
FUZZ_ARGS ?=
BENCH_ARGS ?=

# A variable, because a comma would end the argument of a $(call).
DEV_EXTRAS := test,dev,eval

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench
INSTALL_LOG := $(VENV)/install.log
# Processes on one machine share its cores: threads of their own would only get in each other's way.
export OMP_NUM_THREADS ?= 1

# $(call usable,INTERPRETER,VERSIONS): succeeds if it runs, is one of VERSIONS, and can make virtual environments.
usable = $(1) -c 'import ensurepip, sys, venv; sys.exit("%d.%d" % sys.version_info[:2] not in "$(2)".split())' 2>/dev/null
# The constraint file that fits the interpreter of $(VENV).
constraints = constraints/py$$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])').txt
# $(call pip_install,ARGUMENTS): quiet; on failure the end of the log is shown.
pip_install = $(BIN)/python -m pip install --no-compile --constraint $(constraints) $(1) >>$(INSTALL_LOG) 2>&1 || \
	{ tail -n 30 $(INSTALL_LOG); echo "installation failed; the whole log is in $(INSTALL_LOG)" >&2; exit 1; }

.PHONY: help setup train test test-fast test-slurm test-py312 check format bench bench-checkpoint bench-prepare fuzz soak clean

help: ## this list
	@awk -F ':.*## *' '/^[a-z0-9-]+:.*##/ { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=...       interpreter for $(VENV) (3.11 or 3.12)"
	@echo "  TORCH_INDEX=...  package index to take torch from (for its CPU or a CUDA build)"
	@echo "  PYTEST_ARGS=...  further arguments of pytest, e.g. PYTEST_ARGS='-k router -x'"
	@echo "  PYTEST_WORKERS=2 how many tests run at a time; 0 with --pdb"
	@echo "  TRAIN_CONFIG=... NPROC=... TRAIN_ARGS=...      what \`make train\` trains: configs/small.yaml, 4 processes"
	@echo "  BENCH_ARGS=...   SOAK_KILLS=200  SOAK_ARGS=... of the benchmarks, and of soak"
	@echo "  FUZZ_ARGS=...    of fuzz, e.g. FUZZ_ARGS='--class corpora --seed 7 --only 123'"

setup: $(INSTALLED) ## make .venv and install everything into it; quick when up to date
	@echo "$(VENV) is ready"

train: $(INSTALLED) ## prepare the default corpus and train a small UniPool on it
	$(BIN)/unipool-dist data prepare data/default
	$(BIN)/unipool-dist train $(TRAIN_CONFIG) --nproc $(NPROC) $(TRAIN_ARGS)

# $(call pytest,ARGUMENTS): of what PYTEST_ARGS may ask for, there may be none among these tests. Programs that they start
# are forks of one that has imported torch, Megatron and DeepSpeed, except in those marked `real_programs`.
pytest = $(BIN)/python -m pytest --preloaded $(1) $(PYTEST_ARGS) || [ $$? -eq 5 ]

test: $(INSTALLED) ## run all tests but those on SLURM
	$(call pytest,-m "not timing" --numprocesses=$(PYTEST_WORKERS) --dist=loadfile)
	$(call pytest,-m timing) # one after another: a busy machine upsets them

test-fast: $(INSTALLED) ## run the tests that start no process, and four of the parity with one process; three minutes
	$(BIN)/python -m pytest --preloaded -m "pure or fast" --numprocesses=$(PYTEST_WORKERS) --dist=loadfile $(PYTEST_ARGS)

# A test that takes too long is to fail and be cleared up after, not to end all others, as the other method would.
test-slurm: $(INSTALLED) ## run the tests on a SLURM cluster of namespaces on this machine; needs root, installs SLURM
	$(BIN)/python -m pytest tests/slurm --timeout=180 --timeout-method=signal $(PYTEST_ARGS)

test-py312: ## run all tests on Python 3.12, in .venv312, where that is installed
	@for python in python3.12 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do \
		if $(call usable,"$$python",3.12); then exec $(MAKE) test VENV=.venv312 PYTHON="$$python"; fi; \
	done; \
	echo "skipped: no Python 3.12 with its venv module was found (on PATH or in pyenv)"

check: $(INSTALLED) ## format, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## reformat, and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-prepare: $(INSTALLED) ## how much faster two processes prepare a corpus than one
	$(BIN)/python -m benchmarks.prepare $(BENCH_ARGS)

bench-checkpoint: $(INSTALLED) ## speed of saving and loading against the disk's own, and the stall of training
	$(BIN)/python -W ignore -m benchmarks.checkpoint $(BENCH_ARGS)

soak: $(INSTALLED) ## kill runs SOAK_KILLS times and see what is lost; half an hour; continues when called again
	$(BIN)/python -W ignore -m tests.soak --kills $(SOAK_KILLS) $(SOAK_ARGS)

fuzz: $(INSTALLED) ## thousands of hostile inputs: none may crash, hang, be executed or get out; ten minutes
	$(BIN)/python -W ignore -m tests.fuzz $(FUZZ_ARGS)

bench: $(BENCH_INSTALLED) ## speed and bytes sent, against dense and ideal
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

clean: ## remove the virtual environments and caches; data and runs stay
	rm -rf .venv .venv312 build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@found=; for python in $(or $(PYTHON),python3.11 python3.12 python3); do \
		if $(call usable,"$$python",3.11 3.12); then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "no fitting Python: tried $(or $(PYTHON),python3.11 python3.12 python3); needed is 3.11 or 3.12 with its venv module" >&2; \
		echo "(Debian: apt-get install python3.11-venv), or name one: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi; \
	"$$found" -m venv --clear $(VENV)

# --no-compile and then compiling on all cores takes half as long as letting pip compile.
$(INSTALLED): setup.py pyproject.toml $(wildcard constraints/*.txt) | $(BIN)/python
	@echo "installing into $(VENV) (a minute or so; more if torch's CUDA libraries are to be downloaded): $(INSTALL_LOG)"
	@: >$(INSTALL_LOG)
	@if [ -n "$(TORCH_INDEX)" ]; then $(call pip_install,--no-deps --index-url $(TORCH_INDEX) torch); fi
	@$(call pip_install,--editable '.[$(DEV_EXTRAS)]')
	@$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "installing what the benchmark compares with"
	@$(call pip_install,--editable '.[bench]')
	@touch $@
