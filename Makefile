# What .ci/run calls, and what a developer calls: the same targets, so that local = CI.
# PYTHON is the interpreter of an environment with `pip install -e '.[dev]'`.
PYTHON ?= python

.PHONY: install lint test slow package kernels all

all: lint test package

install:
	$(PYTHON) -m pip install -q -e '.[dev]'

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright

test:
	$(PYTHON) -m pytest

slow:
	$(PYTHON) -m pytest -m slow

# Builds the wheel, installs it in a fresh environment and runs a task from a foreign directory.
package:
	$(PYTHON) tests/check_package.py

# Compiles the CPU kernels in place, for an editable install made before a compiler was there.
kernels:
	$(PYTHON) hatch_build.py
