# `make demo` and `make test` need Python >= 3.11 and a package index, nothing else.
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV_COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(VENV)/bin/uv pip compile --quiet --universal \
	--python-version 3.11 --fork-strategy fewest --generate-hashes --no-annotate pyproject.toml

.PHONY: demo test test-all lint types lock clean

demo: $(VENV)/runtime
	$(PY) -m experiments.tradeoff $(ARGS)

PYTEST := $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile

# Compiling is most of the fast tests' time, and less of it does there; the slow ones run what users run.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 $(XLA_FLAGS)"

test: lint types
	$(QUICK) $(PYTEST) -m "not slow" $(ARGS)

test-all: test
	$(PYTEST) -m slow $(ARGS)

lint: $(VENV)/dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(VENV)/dev
	$(PY) -m pyright --pythonpath $(PY)

# The newest of everything, pinned and hashed: one set for every platform and every Python.
lock: $(VENV)/made
	$(PIP) install --quiet uv==0.13.9
	$(UV_COMPILE) --upgrade --output-file requirements.lock
	$(UV_COMPILE) --upgrade --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache

# Each stamp is touched last, so that an installation cut short starts again.
$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found: install one, or name it with" \
		"make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "Python's venv module is missing: on Debian and" \
		"Ubuntu install python3-venv"; exit 1; }
	@touch $@

$(VENV)/runtime: requirements.lock pyproject.toml | $(VENV)/made
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml | $(VENV)/made
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@
