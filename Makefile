# Both commands set everything up themselves: bare Python (3.11 to 3.13) and make are enough.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help lint check test test-long room demo bench dist clean

PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q
PARALLEL := -n auto --dist loadgroup

help:   ## what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[suite,environments,dev]'
	touch $@

# GitHub's parser, evaluator and API description, and a second engine for chat templates; without npm tests say that they skip.
TEMPLATE_ENGINE := ci/chat_templates/node_modules/.ready
NODE_READY := tests/e2e/node_modules/.ready $(TEMPLATE_ENGINE)
%/node_modules/.ready: %/package.json %/package-lock.json
	if command -v npm >/dev/null && npm ci --prefix $* --silent; then touch $@; fi

lint: $(READY) ## ruff alone: seconds
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

check: lint ## ruff, and mypy --strict over package, tests and benchmarks
	$(RUN)/mypy

test: check $(TEMPLATE_ENGINE) ## ruff, mypy and every test but the long ones: minutes
	$(PYTEST) $(PARALLEL) -m "not long"

test-long: $(READY) $(NODE_READY) ## the tests that start many processes: workflows, whole runs of the suite, machines
	$(PYTEST) $(PARALLEL) -m long

# The tests of one room: tests/ci/ROOM, tests/ROOM* (runner: tests/runner_setup) and tests/ci/test_ROOM*.py.
ROOM_TESTS = $(wildcard tests/ci/$(ROOM) tests/$(ROOM)* tests/ci/test_$(ROOM)*.py)
room: $(READY) ## the quick tests of one room: make room ROOM=hub
	@test -n "$(ROOM)" && test -n "$(ROOM_TESTS)" || { echo "no tests of a room '$(ROOM)'; call it like: make room ROOM=hub"; exit 2; }
	$(PYTEST) -m "not long" $(ROOM_TESTS)

demo: $(READY) ## the main job on a real model: the Hub when it answers, the stand-in otherwise
	TQDM_DISABLE=1 $(RUN)/python -m tests.standin.demo

bench: $(READY) ## the figures of docs/figures.md, as ratios
	$(RUN)/python -m benchmarks

# The wheel is built from the source archive, so that both have the same files. The release workflow names its own hatchling.
HATCHLING = $(abspath $(RUN))/hatchling
dist:   ## the source archive, and the wheel from it, in dist/
	rm -rf dist build && mkdir -p build/source
	"$(HATCHLING)" build -t sdist -d dist
	tar -xf dist/*.tar.gz -C build/source --strip-components=1
	cd build/source && "$(HATCHLING)" build -t wheel -d "$(CURDIR)/dist"

clean: ## remove what the targets above made
	rm -rf $(VENV) tests/e2e/node_modules ci/chat_templates/node_modules .mypy_cache .ruff_cache .pytest_cache .demo dist build
