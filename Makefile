# Both commands set everything up themselves: bare Python (3.11 to 3.13) and make are enough.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help test check demo bench clean
help:   ## what can be made
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[suite,dev]'
	touch $@

# GitHub's parser, evaluator and API description, for the tests of the workflows; without npm those say that they skip.
NODE_READY := tests/e2e/node_modules/.ready
$(NODE_READY): tests/e2e/package.json tests/e2e/package-lock.json
	if command -v npm >/dev/null && npm ci --prefix tests/e2e --silent; then touch $@; fi

check: $(READY) ## ruff and mypy --strict over package, tests and benchmarks
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

test: check $(NODE_READY) ## every check of this repository, then its tests
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --dist loadgroup -q

demo: $(READY) ## the main job on a real model: the Hub when it answers, the stand-in otherwise
	$(RUN)/python -m tests.standin.demo

bench: $(READY) ## the figures of the README, as ratios
	$(RUN)/python -m benchmarks

clean: ## remove what the targets above made
	rm -rf $(VENV) tests/e2e/node_modules .mypy_cache .ruff_cache .pytest_cache .demo
