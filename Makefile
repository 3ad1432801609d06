# make demo: install from wheels, prepare a small data set of real images, train on 2 processes, evaluate.
# make install: also FFCV's library and what development needs.   make install-wheels: what the demo needs.
# make test-fast: the quick tests, for a first answer.   make test: ruff, mypy, codespell, every test.

PYTHON ?= python3
RUN := .venv/bin/python
PYTEST := $(RUN) -m pytest --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast check install install-wheels clean

demo: install-wheels
	@./demo.sh

# three processes for 2 cores: tests of Slurm mostly wait
test: .venv/tests-installed check
	$(PYTEST) -n 3

test-fast: install
	$(PYTEST) -n 2 -m "not slow and not slurm and not browser"

check: install
	$(RUN) -m ruff check --quiet .
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -m codespell_lib
	$(RUN) -m mypy

install: .venv/installed

install-wheels: .venv/wheels-installed

.venv/wheels-installed: pyproject.toml install.sh
	@PYTHON=$(PYTHON) ./install.sh --wheels
	@touch $@

.venv/installed: pyproject.toml install.sh
	@PYTHON=$(PYTHON) ./install.sh
	@touch .venv/wheels-installed $@

.venv/tests-installed: .venv/installed
	@PYTHON=$(PYTHON) ./install.sh --tests
	@touch $@

clean:
	rm -rf .venv demo build *.egg-info install.log
