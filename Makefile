VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test check format docs async bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/ready ## run the main job on a SQLite file
	$(BIN)/hopper-data demo

test: $(VENV)/ready ## run all tests, on SQLite and on a PostgreSQL of their own
	$(BIN)/pytest -n auto --maxprocesses 4

check: ## run all that must pass: tests with coverage, ruff, import-linter, mypy
	.ci/run

format: $(VENV)/ready ## format the code, and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: $(VENV)/ready ## write docs/schema.md from the models
	$(BIN)/python docs/generate_schema.py

async: $(VENV)/ready ## write the asynchronous faces of the repositories from their source
	$(BIN)/python -m tools.async_faces

bench: $(VENV)/ready ## measure speed, and write docs/performance.md; BENCH=--full, --quick or '--tasks FILE'
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks $(BENCH)

clean: ## delete the virtual environment, caches and builds
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .*_cache .hypothesis

$(VENV)/ready: pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,lint]'
	touch $@
