# `make demo` and `make test` work on a machine that has only Python (3.11 or later) and make.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal -rs

.PHONY: demo test check images bench truth lint docs clean

demo: $(VENV)/installed
	$(RUN) -m crp demo

test: $(VENV)/installed-test lint
	$(PYTEST)

check: test
	$(PYTEST) -m slow

images: $(VENV)/installed
	$(RUN) images/make_images.py

bench: $(VENV)/installed
	$(RUN) benchmarks/run_all.py

truth: $(VENV)/installed-test
	$(RUN) benchmarks/truth.py

lint: $(VENV)/installed-test
	$(RUN) -m ruff check .
	$(VENV)/bin/lint-imports --no-cache
	$(RUN) -m mypy
	$(RUN) -m deptry .

docs: $(VENV)/installed-docs
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(RUN) docs/check_links.py docs/_build/html

clean:
	rm -rf $(VENV) build *.egg-info docs/_build docs/api/generated docs/tutorials

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(RUN) -m pip install --quiet --editable ".[explorer]"
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[test,tutorials,dev]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[docs]"
	touch $@
