# make demo         the whole platform on this machine: train, gate, serve, predict
# make test         linters, types and the whole test suite
# make test-image   an image of the bento, built and tried where there is podman; needs minutes
# make bench        the quality benchmarks; needs minutes
# make fuzz         ten thousand changed recordings and as many requests to the API; needs half an hour
SHELL := /bin/bash
PYTHON ?= python3.11
AFFECT := .venv/bin/affect

.PHONY: demo test test-platform test-others test-image lint bench fuzz install down

demo: install
	$(AFFECT) up
	$(AFFECT) retrain --recipe quick --dataset synthetic
	$(AFFECT) predict
	$(AFFECT) status

# At once: the tests that drive running servers, which mostly wait for them, and all others.
test: install
	$(MAKE) --jobs 3 lint test-platform test-others

test-platform: install
	.venv/bin/pytest -m platform

test-others: install
	.venv/bin/pytest -m "not platform and not image"

test-image: install
	.venv/bin/pytest -m image

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: install
	$(AFFECT) bench

fuzz: install
	.venv/bin/python -m tests.fuzz

down: install
	$(AFFECT) down

install: .venv/installed

# The stamp is made last, so that an installation that was interrupted is taken up again.
.venv/installed: requirements.lock pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	# The lock names the whole tree, so nothing is to be resolved.
	.venv/bin/pip install --quiet --no-compile --disable-pip-version-check --no-deps -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	# On all processors, which pip does not. Without it each of a run's many processes would compile what it imports
	# where the environment forbids writing bytecode. Some packages carry templates that are no Python.
	.venv/bin/python -m compileall -qq -j 0 -x '/tests?/|/transformers/models/(?!auto|bert/|wav2vec2/|__init__)' .venv/lib || true
	touch $@
