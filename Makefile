# make demo: install, prepare a small data set of real images, train on 2 processes, evaluate.   make test: every test.

PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: demo test check install clean

demo: install
	./demo.sh

test: .venv/tests-installed check
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

install: .venv/installed

.venv/installed: pyproject.toml install.sh
	PYTHON=$(PYTHON) ./install.sh
	touch $@

.venv/tests-installed: .venv/installed
	PYTHON=$(PYTHON) ./install.sh --tests
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
