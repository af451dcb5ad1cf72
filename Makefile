# make demo: train, measure, verify, sample and inspect, in a few minutes on two cores
# make test: style, types and the whole test suite
# Both set up what they need: a virtual environment, and a software GPU adapter where there is none.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types adapter slow bench gpu clean

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

# The demo runs without any adapter (the mirrors do the work); the tests do not.
demo: RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
demo: $(INSTALLED)
	.ci/ensure-adapter $(BIN)/python 0
	$(BIN)/ebm train --config nano --dataset wikitext-2 --run $(RUN) train.max_minutes=3
	$(BIN)/ebm verify-kernels
	$(BIN)/ebm sample --checkpoint $(RUN) --prompt "The history of the city" --max-tokens 80
	$(BIN)/ebm splats list $(RUN) --limit 10

test: $(INSTALLED) adapter lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

adapter: $(INSTALLED)
	.ci/ensure-adapter $(BIN)/python

slow: $(INSTALLED) adapter
	$(BIN)/python -m pytest -m slow

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	for script in benchmarks/[!_]*.py; do $(BIN)/python $$script || exit 1; done

# On a machine with a GPU: proves every kernel and measures everything that runs on it, with up to
# three hours of training at the end. GPU_OPTIONS="--no-long" leaves those out.
gpu: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	$(BIN)/python benchmarks/_gpu.py $(GPU_OPTIONS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
