# ctbasis: `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash -eu -o pipefail
.PHONY: help setup demo test ci ci-e2e lock-check audit style types layers package-check lint bench bench-quality images cluster-check e2e chaos scaling overhead fuzz clean

UV_VERSION := 0.13.9
MAHOUT := images/spark/mahout
JAR := $(MAHOUT)/target/ctbasis-mahout.jar
PY := .venv/bin/python
CTBASIS := .venv/bin/ctbasis
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
# A kit that starts a one-node cluster. Only `make ci` uses it, and only if KUBECONFIG is not set.
CLUSTER_KIT ?= ../shared/cluster
# The first of these that works; docker without its daemon does not.
BUILDER ?= $(shell for one in docker podman buildah; do $$one info >/dev/null 2>&1 && echo $$one && break; done)
# The uv of this version on PATH, else a copy in .cache.
UV := $(shell uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)' && command -v uv || echo .cache/uv/bin/uv)

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready $(JAR) ## Install the Python environment, a JDK and Maven, and build the Mahout jar
	@echo "ctbasis is ready: $(CTBASIS) --help"

demo: setup ## Denoise a simulated low-dose chest CT on this machine with the whole compiled pipeline
	$(CTBASIS) demo --out demo

test: setup ## Run all tests that need no cluster
	env -u KUBECONFIG $(PY) -m pytest -n auto --dist loadfile

ci: setup lock-check audit style types layers test package-check lint ci-e2e ## Run all checks and tests, exactly as CI does

ci-e2e: setup ## Run the e2e tests on the cluster of KUBECONFIG or on one that CLUSTER_KIT starts, if there is either
	CLUSTER_KIT=$(CLUSTER_KIT) .ci/e2e

lock-check: .venv/.ready ## Check that uv.lock matches pyproject.toml
	$(UV) lock --check

audit: .venv/.ready ## Compare the locked packages with the known vulnerabilities at osv.dev
	.ci/audit $(UV)

style: .venv/.ready ## Check lint rules and format with ruff
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.ready ## Check types with mypy --strict
	.venv/bin/mypy

layers: .venv/.ready ## Rooms import only from lower rooms, and nothing imports in a circle (import-linter)
	.venv/bin/lint-imports --no-cache

package-check: .venv/.ready ## Check that the committed pipeline is the output of compiling its source
	$(CTBASIS) compile --check

lint: .venv/.ready ## Check the compiled pipeline and the manifests
	$(CTBASIS) lint

bench: setup ## Measure pipeline, ingest and SVD, with all contenders in one run
	$(CTBASIS) bench

bench-quality: setup ## Compare denoisers, with BM3D and BM4D (non-commercial use only); SERIES="DIR DIR"
	$(UV) sync --frozen --all-extras
	$(CTBASIS) bench quality $(foreach one,$(SERIES),--series $(one))

images: ## Build the images with docker, podman or buildah (BUILDER=); BASE= replaces the pinned Debian 12
	@test -n "$(BUILDER)" || { echo "docker, podman and buildah do not work here; name a builder by BUILDER=..." >&2; exit 1; }
	label=org.opencontainers.image; for image in spark steps; do \
	  $(BUILDER) build --file images/$$image/Dockerfile --tag ctbasis/$$image:$(VERSION) \
	    --build-arg VERSION=$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) \
	    --label $$label.source="$$(git remote get-url origin 2>/dev/null | sed -E 's#//[^/@]*@#//#')" \
	    --label $$label.revision="$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)" \
	    --label $$label.created="$$(git log -1 --format=%cI 2>/dev/null)" .; done

cluster-check:
	@tests/e2e/needs

e2e: cluster-check setup ## Test the svd step, the manifests and the whole pipeline on the cluster of KUBECONFIG
	$(PY) -m pytest -m e2e --capture=no tests/e2e

chaos: cluster-check setup ## Inject faults on the cluster of KUBECONFIG one by one; prints the table of docs/explanation/cluster.md
	$(PY) -m pytest -m chaos --capture=no tests/e2e

scaling: cluster-check setup ## Measure the SVD with 1 and 2 executors on the cluster of KUBECONFIG
	$(PY) -m tests.e2e.scaling

overhead: cluster-check setup ## Measure what the svd step adds to a bare SparkApplication on the cluster of KUBECONFIG
	$(PY) -m tests.e2e.overhead

CASES ?= 20000
SEED ?= 0
fuzz: setup ## Read CASES randomly damaged DICOM files, drawn from SEED
	$(PY) -m ctbasis.bench.fuzz --cases $(CASES) --seed $(SEED)

clean: ## Remove the files that setup and demo have made
	rm -rf .venv .cache demo demo.partial $(MAHOUT)/target

.cache/uv/bin/uv:
	python3 -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

.venv/.ready: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --all-extras --no-extra peers
	@touch $@

$(JAR): $(shell find $(MAHOUT) -path $(MAHOUT)/target -prune -o -type f -print)
	@images/spark/mahout/toolchain
	mvn --quiet --batch-mode --file $(MAHOUT)/pom.xml package
	@touch $@
