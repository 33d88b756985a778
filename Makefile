# Whichever target is called first makes the virtual environment and fills it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_FLAGS ?= --disable-pip-version-check --quiet
# Where pip finds torch, when the default index would bring CUDA along: the CPU index of PyTorch's install page.
TORCH_INDEX ?=
TORCH_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX),)
DEMO_ARGS ?=
# Tests wait for processes more than they compute; files stay whole, so that their servers are shared. A process of them
# computes by one thread: more would wait for the cores of the others.
TEST_PROCESSES ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test test-control check fix docs bench soak train faults gpu browser clean

help: ## show what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.engine: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing purvey[engine,demo] into $(VENV) ..."
	$(BIN)/python -m pip install $(PIP_FLAGS) $(TORCH_FLAGS) -c constraints.txt -e '.[engine,demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.engine
	@echo "installing the development tools into $(VENV) ..."
	$(BIN)/python -m pip install $(PIP_FLAGS) $(TORCH_FLAGS) -c constraints.txt -e '.[engine,demo,dev,docs]'
	@touch $@

demo: $(VENV)/.engine ## data to served, explained model on this machine; DEMO_ARGS=--exit ends instead of staying up
	$(BIN)/purvey demo $(DEMO_ARGS)

test: $(VENV)/.dev ## run the test suite, in TEST_PROCESSES processes
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile

test-control: pyproject.toml constraints.txt ## run the control plane's tests in an environment without torch
	$(PYTHON) -m venv $(VENV)-control
	$(VENV)-control/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e . hypothesis openai pytest pytest-asyncio pytest-timeout psutil
	$(VENV)-control/bin/python -m pytest tests/unit tests/property tests/contract tests/api

check: $(VENV)/.dev ## lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.dev ## repair what lint and format can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## regenerate the reference pages and build the site
	$(BIN)/python -m docs.generate
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.dev ## measure the bars of benchmarks/ and write dated reports (needs an idle machine)
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev ## long runs
	$(BIN)/python -m pytest -m soak

train: $(VENV)/.dev ## full-size training claims
	$(BIN)/python -m pytest -m train

faults: $(VENV)/.dev ## the full fault matrix
	$(BIN)/python -m pytest -m faults

gpu: $(VENV)/.dev ## exactness on a CUDA device, where there is one
	$(BIN)/python -m pytest -m gpu

browser: $(VENV)/.dev ## the report page in Chromium, which must be installed
	$(BIN)/python -m pytest -m browser tests/console

clean: ## remove the virtual environments and caches
	rm -rf $(VENV) $(VENV)-control .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
