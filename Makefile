# make demo         the whole platform on this machine: train, gate, serve, predict
# make test         linters, types and the whole test suite
# make test-long    what needs minutes: an object store that dies, a hundred thousand names in it, compiled layers
# make test-machines  a training over three machines of which one is lost, in namespaces of Linux; needs minutes
# make test-image   the platform's image and one of the bento, built and tried where there is podman; needs minutes
# make image        the platform's image, with podman, docker or buildah; needs minutes
# make drill        the whole story under traffic, on a platform of its own; needs minutes
# make bench        the quality benchmarks; needs minutes
# make fuzz         ten thousand changed recordings and as many requests to the API; needs half an hour
SHELL := /bin/bash
PYTHON ?= python3.11
AFFECT := .venv/bin/affect
# Of `make image`: what builds, what for (cpu or cuda), the name, and further options such as --build-arg BASE=...
BUILDER ?= $(firstword $(foreach each,podman docker buildah,$(if $(shell command -v $(each)),$(each))))
COMPUTE ?= cpu
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= crossmodal-affect:$(VERSION)
IMAGE_OPTIONS ?=

.PHONY: demo test test-platform test-others test-long test-machines test-image lint image drill bench fuzz install down

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
	.venv/bin/pytest -m "not platform and not image and not long and not machines"

test-long: install
	.venv/bin/pytest -m long

test-machines: install
	.venv/bin/pytest -m machines

test-image: install
	.venv/bin/pytest -m image

# First the bill of what is in it, which lies beside it in build/: its stage refuses what is not locked.
image: BUILD = $(BUILDER) build --file infra/image/Containerfile --build-arg COMPUTE=$(COMPUTE) $(IMAGE_OPTIONS)
image:
	test -n "$(BUILDER)" || { echo "error: there is no podman, docker or buildah to build an image with: install one" >&2; exit 1; }
	$(BUILD) --target sbom --output type=local,dest=build/image .
	$(BUILD) --target image --tag $(IMAGE) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$$(git describe --always --abbrev=12 --dirty=+ --exclude='*') .

lint: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

drill: install
	$(AFFECT) drill

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
