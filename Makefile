# ctbasis: `make help` lists what there is to do.
.DEFAULT_GOAL := help
SHELL := /bin/bash -eu -o pipefail
.PHONY: help setup demo test ci lock-check style types package-check lint bench images e2e clean

UV_VERSION := 0.13.9
MAHOUT := images/spark/mahout
JAR := $(MAHOUT)/target/ctbasis-mahout.jar
PY := .venv/bin/python
CTBASIS := .venv/bin/ctbasis
VERSION := 0.1.0
BUILDER ?= $(shell command -v docker || command -v podman || command -v buildah)
# uv of this version from PATH if it is there, else one of our own in .cache.
UV := $(shell uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)' && command -v uv || echo .cache/uv/bin/uv)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready $(JAR) ## Install all that is needed: Python environment, JDK and Maven, Mahout
	@echo "ctbasis is ready: $(CTBASIS) --help"

demo: setup ## Denoise a low-dose chest phantom from a real S3 server through the whole compiled pipeline
	$(CTBASIS) demo --out demo

test: setup ## Run the tests
	$(PY) -m pytest

ci: setup lock-check style types test package-check lint ## Everything that must stay true; exactly what CI runs

lock-check: .venv/.ready ## The lock file says what pyproject.toml asks for
	$(UV) lock --check

style: .venv/.ready ## ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.ready ## mypy --strict
	.venv/bin/mypy

package-check: .venv/.ready ## The committed pipeline package is what the source compiles to
	$(CTBASIS) compile --check

lint: .venv/.ready ## The compiled pipeline and the manifests hold
	$(CTBASIS) lint

bench: setup ## Measure pipeline, ingest and SVD; ratios side by side in one run
	$(CTBASIS) bench

images: ## Build the container images with docker, podman or buildah
	for image in spark steps; do $(BUILDER) build -f images/$$image/Dockerfile -t ctbasis/$$image:$(VERSION) .; done

e2e: setup ## Test the Spark step on the cluster of KUBECONFIG
	$(PY) -m pytest tests/e2e

clean: ## Remove what setup and demo made
	rm -rf .venv .cache demo demo.partial $(MAHOUT)/target

.cache/uv/bin/uv:
	python3 -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

.venv/.ready: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --all-extras
	@touch $@

$(JAR): $(shell find $(MAHOUT) -path $(MAHOUT)/target -prune -o -type f -print)
	@images/spark/mahout/toolchain
	mvn --quiet --batch-mode --file $(MAHOUT)/pom.xml package
	@touch $@
