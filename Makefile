# `make demo` and `make test` need Python >= 3.11 and a package index, nothing else.
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV := $(VENV)/bin/uv
UV_COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-annotate pyproject.toml --upgrade
# Where uv looks first for a Python that may have a newer JAX than 3.11 has: PATH, then pyenv's.
NEWER_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 python3 \
	$(HOME)/.pyenv/versions/3.1[2-9]*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-all test-floor test-newest lint types lock clean

demo: $(VENV)/runtime
	$(PY) -m experiments.tradeoff $(ARGS)

PARALLEL := -n auto --maxprocesses 4 --dist loadfile
PYTEST := $(PY) -m pytest $(PARALLEL)

# Compiling is most of the fast tests' time, and less of it does there; the slow ones run what users run.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 $(XLA_FLAGS)"

test: lint types
	$(QUICK) $(PYTEST) -m "not slow" $(ARGS)

test-all: test
	$(PYTEST) -m slow $(ARGS)
	$(MAKE) test-floor test-newest ARGS='$(TOUCHING)'

# Every part of JAX, Flax, Optax, Orbax and the others that we call, and README's example; -m "" lets
# that run though it is slow.
TOUCHING := -m "" tests/test_readme.py tests/test_checkpoint.py tests/test_gradient.py \
	tests/test_batches.py tests/test_plots.py tests/test_metrics.py tests/test_weight_sources.py \
	tests/test_convert.py::test_help_teaches \
	tests/test_train.py::test_a_step_is_that_of_the_releases_decoders

# The fast tests with the oldest versions that pyproject.toml allows, on the oldest Python; and with
# the newest, which a newer Python than 3.11 has. ARGS chooses some: ARGS="-k metrics".
test-floor: .venv-floor/dev
	$(QUICK) .venv-floor/bin/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-newest: $(if $(NEWER_PYTHON),.venv-newest/dev)
	$(if $(NEWER_PYTHON),$(QUICK) .venv-newest/bin/python -m pytest $(PARALLEL) -m "not slow" $(ARGS), \
		@echo "test-newest: skipped, it needs Python 3.12 or newer; name one with NEWER_PYTHON=")

lint: $(VENV)/dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(VENV)/dev
	$(PY) -m pyright --pythonpath $(PY)

# Pinned and hashed, for every platform: the newest of everything that each Python can have, and the
# oldest that pyproject.toml allows, from wheels (an old source may not build today).
lock: $(UV)
	$(UV_COMPILE) --output-file requirements.lock
	$(UV_COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(UV_COMPILE) --extra dev --resolution lowest-direct --only-binary :all: --no-binary promise \
		--output-file requirements-floor.lock

clean:
	rm -rf $(VENV) .venv-floor .venv-newest dist build .pytest_cache .ruff_cache

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

$(UV): | $(VENV)/made
	$(PIP) install --quiet uv==0.13.9

.venv-floor/dev: requirements-floor.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --seed --python 3.11 .venv-floor
	$(UV) pip install --quiet --python .venv-floor --require-hashes -r requirements-floor.lock
	$(UV) pip install --quiet --python .venv-floor --no-deps --editable .
	@touch $@

.venv-newest/dev: requirements-dev.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --seed --python $(NEWER_PYTHON) .venv-newest
	$(UV) pip install --quiet --python .venv-newest --require-hashes -r requirements-dev.lock
	$(UV) pip install --quiet --python .venv-newest --no-deps --editable .
	@touch $@
