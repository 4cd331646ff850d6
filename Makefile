# What people and CI type. Every target sets up what it needs in .tools/ and .venv/.

PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup demo test check fuzz bench figures clients build executable site clean

help: ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## set up uv, the environment and the sandbox
	@scripts/bootstrap.sh --sandbox

demo: setup ## three nodes render an animation into demo-output/
	@$(PYTHON) -m p2prc demo

test: setup ## every test, at most 12 minutes
	@$(PYTHON) scripts/test.py

check: setup ## style, types and import contracts
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

fuzz: setup ## mutate bytes of peers under coverage, 20 s for each decoder
	@PATH="$(CURDIR)/.tools/bin:$$PATH" uv sync --frozen --quiet --group fuzz
	$(PYTHON) -m tests.fuzz

bench: setup ## speed beside rivals, as ratios
	$(PYTHON) -m benchmarks

clients: setup ## generate clients for TypeScript and Go, run them against a node
	P2PRC_TEST_CLIENTS=1 $(PYTHON) -m pytest -q -rs tests/system/test_api_on_tcp.py

figures: setup ## long runs, recorded with date and command in figures/
	$(PYTHON) -m benchmarks.figures

build: setup ## a wheel and an sdist in dist/
	@PATH="$(CURDIR)/.tools/bin:$$PATH" uv build --quiet

executable: setup ## one file with the interpreter inside, in dist/
	@PATH="$(CURDIR)/.tools/bin:$$PATH" $(PYTHON) scripts/executable.py

site: setup ## the documents as pages, in site/
	@PATH="$(CURDIR)/.tools/bin:$$PATH" UV_PROJECT_ENVIRONMENT=.tools/site \
		uv sync --frozen --quiet --only-group docs
	@NO_MKDOCS_2_WARNING=1 .tools/site/bin/mkdocs build --quiet --strict

clean: ## forget what was set up or made here
	rm -rf .venv .tools dist site demo-output demo-home .mypy_cache .ruff_cache .pytest_cache
