# `make run` adapts the built-in model; `make test` runs the fast tests. Both make what they need first.
VENV ?= .venv
PYTHON ?= python3
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check

.PHONY: run test slow mutants claims lint docs docs-site wheel clean

run: $(VENV)/.core
	$(VENV)/bin/tunewright run quickstart

# one thread a worker: the tests' models are tiny, and threads that wait for each other cost more than they give
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(TESTS)

slow: $(VENV)/.dev
	OMP_NUM_THREADS=2 $(PY) -m pytest -m slow $(TESTS)

# key lines of every method changed one at a time: which changes does no test notice? (about half an hour)
mutants: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m tests.mutants $(METHODS)

# a few committed digests computed again, and the three cheapest claims run again and compared with what is committed
claims: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -m slow tests/claims/test_digests.py tests/claims/test_three.py

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy tunewright
	$(PY) -m pytest -q tests/test_dead_code.py

docs: $(VENV)/.dev
	$(PY) -m tunewright.commands.docs

# strict: a dead link or anchor is an error (--quiet would keep them from being counted)
docs-site: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# the package as a user gets it: built, installed into an empty environment, tried outside of the checkout
wheel: $(VENV)/bin/python
	rm -rf build/wheel
	$(PIP) wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip --disable-pip-version-check install --quiet -r constraints.txt
	build/wheel/venv/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt build/wheel/*.whl
	build/wheel/venv/bin/python tests/installed.py

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} is too old: write make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: what comes later takes the build that is there.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet -r constraints.txt
	@touch $@

$(VENV)/.core: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.core

$(VENV)/.docs: pyproject.toml $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@ $(VENV)/.core
