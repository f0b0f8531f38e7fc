# `make demo` and `make test` set everything up by themselves: a virtual environment in .venv, the packages at the
# versions of constraints.txt, and the default model in the user's cache. PYTHON=python3.12 chooses an interpreter,
# CHROMIUM=/path/to/chrome the browser of the page's tests.
PYTHON ?= python3
PROMPT ?= Name an unusual use for a brick.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint docs browser bench study screenshots clean

demo: $(VENV)/.run
	$(BIN)/thoughtmix think "$(PROMPT)"

test: $(VENV)/.dev $(VENV)/.older lint browser
	$(BIN)/thoughtmix pull
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/: open site/index.html."

browser: $(VENV)/.dev
	-@$(BIN)/python tests/browser.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/decode.py $(BENCH)

study: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s

screenshots: $(VENV)/.dev
	$(BIN)/python docs/pictures/make.py $(SCREENSHOTS)

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed. Type: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "Installing thoughtmix into $(VENV) (a few minutes the first time) ..."
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --editable ".[dev]"
	@touch $@

# Clients that cannot live beside those of .venv; tests/test_clients.py runs them.
$(VENV)/.older: tests/clients/older.txt | $(VENV)/.run
	@test -d $(VENV)/older || $(PYTHON) -m venv $(VENV)/older
	$(VENV)/older/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/clients/older.txt
	@touch $@

# Inspect, for the same tests; not part of `make test`, since it brings some 60 packages.
$(VENV)/.inspect: tests/clients/inspect.txt | $(VENV)/.run
	@test -d $(VENV)/inspect || $(PYTHON) -m venv $(VENV)/inspect
	$(VENV)/inspect/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/clients/inspect.txt
	@touch $@
