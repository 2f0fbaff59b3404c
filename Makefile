# `make demo` and `make test` work on a machine that has only Python (3.11 or later) and make.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo test check images bench lint clean

demo: $(VENV)/installed
	$(RUN) -m crp demo

test: $(VENV)/installed-test lint
	$(RUN) -m pytest

check: test
	$(RUN) -m pytest -m slow

images: $(VENV)/installed
	$(RUN) images/make_images.py

bench: $(VENV)/installed
	$(RUN) benchmarks/run_all.py

lint: $(VENV)/installed-test
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m mypy
	$(RUN) -m deptry .

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[test,dev]"
	touch $@
