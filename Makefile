# `make demo` and `make test` need Python >= 3.11 and a package index, nothing else.
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV := $(VENV)/bin/uv
UV_COMPILE := UV_CUSTOM_COMPILE_COMMAND="make lock" $(UV) pip compile --quiet --universal \
	--python-version 3.11 --generate-hashes --no-annotate pyproject.toml --upgrade
# A Python 3.11 for the oldest versions, and a newer one, which may have a newer JAX: of PATH, or pyenv's.
named = $(firstword $(foreach p,$(1),$(shell $(p) -c '$(2)' >/dev/null 2>&1 && echo $(p))))
IS_311 := import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))
IS_NEWER := import sys, venv; sys.exit(sys.version_info < (3, 12))
FLOOR_PYTHON ?= $(call named,python3.11 python3 $(wildcard $(HOME)/.pyenv/versions/3.11*/bin/python),$(IS_311))
NEWER_PYTHON ?= $(call named,python3.14 python3.13 python3.12 python3 $(wildcard \
	$(HOME)/.pyenv/versions/3.1[2-9]*/bin/python),$(IS_NEWER))

.PHONY: demo test test-all test-long test-device test-floor test-newest touching-floor touching-newest lint types docs docs-check lock clean

demo: $(VENV)/runtime
	$(PY) -m experiments.tradeoff $(ARGS)

PARALLEL := -n auto --maxprocesses 4 --dist loadfile
# What one test has compiled, others need not compile again, nor does a later run.
PROGRAMS := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/programs \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.5
PYTEST := $(PROGRAMS) $(PY) -m pytest $(PARALLEL)

# Compiling is most of the fast tests' time, and less of it does there; the slow ones run what users run.
QUICK := XLA_FLAGS="--xla_backend_optimization_level=0 $(XLA_FLAGS)"

test: lint types
	$(QUICK) $(PYTEST) -m "not slow" $(ARGS)

test-all: test docs-check
	$(PYTEST) -m "slow and not long" --ignore tests/test_readme.py $(ARGS)
	$(MAKE) -j2 touching-floor touching-newest

# What test-all leaves out, so that it ends within 20 minutes on two cores.
test-long: $(VENV)/dev
	$(PYTEST) -m long $(ARGS)

# What of the tests says something about an accelerator, there.
test-device: $(VENV)/dev
	$(PY) -m experiments.accelerator --only tests --out .pytest_cache/device $(ARGS)

# The fast tests with the oldest versions that pyproject.toml allows, and with the newest, which a
# newer Python than 3.11 has. ARGS chooses some: ARGS="-k metrics".
test-floor: $(if $(FLOOR_PYTHON),.venv-floor/dev)
	$(call with,floor,FLOOR_PYTHON,3.11,$(PARALLEL) -m "not slow" $(ARGS))

test-newest: $(if $(NEWER_PYTHON),.venv-newest/dev)
	$(call with,newest,NEWER_PYTHON,3.12 or newer,$(PARALLEL) -m "not slow" $(ARGS))

# In test-all: README's example with both, and at the floor what touches Flax, Optax and Orbax (-m "":
# the example counts as slow, and is left out above).
touching-floor: $(if $(FLOOR_PYTHON),.venv-floor/dev)
	$(call with,floor,FLOOR_PYTHON,3.11,-m "" tests/test_readme.py tests/test_checkpoint.py \
		tests/test_gradient.py tests/test_networks.py -k "not page and not absent")

touching-newest: $(if $(NEWER_PYTHON),.venv-newest/runtime)
	$(if $(NEWER_PYTHON),$(EXAMPLE) | .venv-newest/bin/python -,@echo "skipped: no Python 3.12 or newer")

EXAMPLE := awk '/^```python/{on = 1; next} /^```/{on = 0} on' README.md
with = $(if $($(2)),$(QUICK) .venv-$(1)/bin/python -m pytest $(4), \
	@echo "test-$(1): skipped, it needs Python $(3); name one with $(2)=")

lint: $(VENV)/dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: $(VENV)/dev
	$(PY) -m pyright --pythonpath $(PY)

# The documentation site: every warning is an error. `make docs` shows it, too.
SITE := .pytest_cache/site
docs-check: $(VENV)/dev
	$(PY) -m sphinx -b html -W --keep-going -q -c docs/site . $(SITE)

docs: docs-check
	$(PY) -m http.server --bind 127.0.0.1 --directory $(SITE) $(or $(PORT),8000)

# Pinned and hashed, for every platform: the newest of everything that each Python can have, and the
# oldest that pyproject.toml allows, from wheels (an old source may not build today).
lock: $(UV)
	$(UV_COMPILE) --output-file requirements.lock
	$(UV_COMPILE) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	$(UV_COMPILE) --extra dev --resolution lowest-direct --only-binary :all: --no-binary promise \
		--output-file requirements-floor.lock

clean:
	rm -rf $(VENV) .venv-floor .venv-newest dist build .pytest_cache .ruff_cache

# Each stamp is touched last, so that an installation cut short starts again. Bytecode is made when a
# module is first imported (--no-compile): most never are.
$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found: install one, or name it with" \
		"make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { echo "Python's venv module is missing: on Debian and" \
		"Ubuntu install python3-venv"; exit 1; }
	@touch $@

$(VENV)/runtime: requirements.lock pyproject.toml | $(VENV)/made
	$(PIP) install --quiet --no-compile --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(VENV)/dev: requirements-dev.lock pyproject.toml | $(VENV)/made
	$(PIP) install --quiet --no-compile --require-hashes -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

$(UV): | $(VENV)/made
	$(PIP) install --quiet uv==0.13.9

.venv-floor/dev: requirements-floor.lock pyproject.toml
	$(FLOOR_PYTHON) -m venv --clear .venv-floor
	.venv-floor/bin/python -m pip install --quiet --no-compile --require-hashes -r requirements-floor.lock
	.venv-floor/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

.venv-newest/made:
	$(NEWER_PYTHON) -m venv --clear .venv-newest
	@touch $@

.venv-newest/%: | .venv-newest/made
	.venv-newest/bin/python -m pip install --quiet --no-compile --require-hashes -r $(filter %.lock,$^)
	.venv-newest/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@
.venv-newest/runtime: requirements.lock pyproject.toml
.venv-newest/dev: requirements-dev.lock pyproject.toml
