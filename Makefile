# `make demo` and `make test` set everything up by themselves: a virtual environment in .venv, the packages at the
# versions of constraints.txt, and the default model in the user's cache. PYTHON=python3.12 chooses an interpreter,
# CHROMIUM=/path/to/chrome the browser of the page's tests.
PYTHON ?= python3
PROMPT ?= Name a bird.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint docs browser bench study vllm screenshots clean

demo: $(VENV)/.run
	$(BIN)/thoughtmix think "$(PROMPT)"

test: $(VENV)/.dev $(VENV)/.older lint browser
	-@$(BIN)/python -m thoughtmix.kernels.build
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
	-@$(BIN)/python -m thoughtmix.kernels.build
	$(BIN)/python benchmarks/decode.py $(BENCH)

study: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow -s

# Which laws hold in vLLM (its CPU build), and `think -e` against its server and llama.cpp's; prints what was measured.
vllm: $(VENV)/.vllm $(VENV)/.llama
	$(BIN)/thoughtmix pull
	$(VENV)/vllm/bin/python -m pytest -s -p no:logging -p no:warnings $(VLLM) tests/test_vllm_laws.py tests/test_foreign_servers.py

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

# vLLM sees what .venv has, and has older packages of its own before them.
$(VENV)/.vllm: tests/with_vllm/needs.txt tests/with_vllm/itself.txt | $(VENV)/.dev
	@test -d $(VENV)/vllm || $(PYTHON) -m venv $(VENV)/vllm
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > "$$($(VENV)/vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_beside.pth"
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/with_vllm/needs.txt
	$(VENV)/vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement tests/with_vllm/itself.txt
	@touch $@

$(VENV)/.llama: tests/with_vllm/llama.txt | $(VENV)/.run
	@test -d $(VENV)/llama || $(PYTHON) -m venv $(VENV)/llama
	$(VENV)/llama/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/with_vllm/llama.txt
	@touch $@
