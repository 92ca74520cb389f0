# The commands of development; `make` lists them. CI calls the same ones.
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup run format check lint types lock test test-fast test-slow coverage ranges wheel docs hooks

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make .venv with everything that requirements.txt pins
	@bash -c 'source experiments/setup.sh && setup_environment'

run: ## Draw a small noisy crawl and run the whole flow on it
	bash experiments/quickstart.sh

format: setup ## Format and sort imports, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: setup lint types ## Check format, style and types: under a minute

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

test: ## Run the default tests, and those of oneDNN without it
	bash tests/run.sh

test-fast: setup ## Run the tests that import no TensorFlow: under a minute on two cores
	$(BIN)/python -m pytest --without-tensorflow

test-slow: ## Run the slow tests, which take hours
	bash tests/run.sh -m slow

coverage: setup ## Run the default tests and print which lines they miss
	$(BIN)/python -m pytest --cov=urnet_tf --cov-report=term-missing:skip-covered

ranges: ## Run the fast tests with the lowest and the newest releases that pyproject.toml allows
	bash tests/dependency_ranges.sh lowest
	bash tests/dependency_ranges.sh newest

lock: setup ## Write requirements.txt anew from pyproject.toml; LOCK=--upgrade takes newer releases
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	  --annotation-style line --extra augment --extra heif --extra lite --extra onnx --extra ray --extra review --extra serve --extra dev $(LOCK) \
	  --output-file requirements.txt pyproject.toml

wheel: setup ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

hooks: setup ## Let git run `make check` before each commit
	$(BIN)/pre-commit install

docs: ## Build the documentation into site/, with its tools in .venv-docs
	python3 -m venv .venv-docs
	.venv-docs/bin/pip install --quiet -r docs/requirements.txt
	.venv-docs/bin/mkdocs build --strict
