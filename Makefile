# Every target does the set-up it needs. PYTHON=... chooses the interpreter of a new .venv.
PYTHON ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
VENV_PYTHON := .venv/bin/python
DEMO_ARGS ?=
EXTRAS ?= dev,opencv
INSTALLED := .venv/.installed-$(EXTRAS)
WEB_ARGS ?=
# PIP_CONSTRAINT, not --constraint: it holds for the pip that the installer calls as well.
PINNED = PIP_CONSTRAINT=constraints/$$($(VENV_PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])').txt

.PHONY: setup demo web test nightly lint check docs gpu
.DELETE_ON_ERROR:

setup: $(INSTALLED)

# Cityscapes' scripts, for its evaluators, declare a backport of `typing` that Python 3 must not get.
$(INSTALLED): setup.py pyproject.toml mask_former/commands/install_detectron2.py $(wildcard constraints/*.txt)
	@test -x .venv/bin/pip || $(PYTHON) -c 'import sys; sys.version_info[:2] in ((3, 11), (3, 12)) or sys.exit("Python 3.11 or 3.12 is needed and $(PYTHON) is %d.%d: name another one with `make setup PYTHON=/path/to/python3.11`." % sys.version_info[:2])'
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	export $(PINNED) && \
	$(VENV_PYTHON) -m pip install --editable '.[$(EXTRAS)]' && \
	$(VENV_PYTHON) tools/install_detectron2.py && \
	$(VENV_PYTHON) -m pip install --no-deps cityscapesscripts pyquaternion
	touch $@

demo: $(INSTALLED)
	$(VENV_PYTHON) demo/shapes_demo.py --output output/shapes_demo $(DEMO_ARGS)

# On the weights of `make demo`; others by WEB_ARGS="--weights FILE".
web: $(INSTALLED)
	$(VENV_PYTHON) -c 'import flask' 2>/dev/null || \
	$(PINNED) \
	$(VENV_PYTHON) -m pip install --editable '.[web]'
	$(VENV_PYTHON) demo/web.py $(WEB_ARGS)

test: $(INSTALLED)
	$(VENV_PYTHON) -m pytest

# Kills, signals and many processes; docs/RELIABILITY.md has what came of them.
nightly: $(INSTALLED)
	$(VENV_PYTHON) -m pytest -m nightly

lint: $(INSTALLED)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

check: lint test

# The site, in output/site, with broken links as errors; the notebook is run, and every example.
docs: $(INSTALLED)
	$(VENV_PYTHON) -c 'import mkdocstrings, nbclient' 2>/dev/null || \
	$(PINNED) \
	$(VENV_PYTHON) -m pip install --editable '.[docs]'
	.venv/bin/mkdocs build --strict
	$(VENV_PYTHON) -m pytest -m "nightly or not nightly" tests/docs

# On a machine with a CUDA device, within nine minutes.
gpu: $(INSTALLED)
	$(VENV_PYTHON) -m benchmarks.gpu output/gpu
