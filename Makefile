# ctbasis: `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash -eu -o pipefail
.PHONY: help setup demo test ci ci-e2e validator repositories browser chart-renderer lock-check audit style types layers package-check lint site site-links reference figures site-pictures workflows version bench bench-quality images image-ray push release view-picture orthanc-picture view-speed cluster-check e2e e2e-operators e2e-nodes chaos scaling overhead cohort-picture fuzz clean

UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' images/uv.txt)
MAHOUT := images/spark/mahout
JAR := $(MAHOUT)/target/ctbasis-mahout.jar
PY := .venv/bin/python
CTBASIS := .venv/bin/ctbasis
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
# A kit that starts a one-node cluster. Only `make ci` uses it, and only if KUBECONFIG is not set.
CLUSTER_KIT ?= ../shared/cluster
# The first of these that works; docker without its daemon does not.
BUILDER ?= $(shell for one in docker podman buildah; do $$one info >/dev/null 2>&1 && echo $$one && break; done)
# Where `make push` writes the names of the images.
PUSHED ?= here/images.env
# The uv of this version on PATH, else a copy in .cache.
UV := $(shell uv --version 2>/dev/null | grep -q '^uv $(UV_VERSION)' && command -v uv || echo .cache/uv/bin/uv)

##@ Start

help: ## List the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready $(JAR) ## Install the Python environment, a JDK and Maven, and build the Mahout jar
	@echo "ctbasis is ready: $(CTBASIS) --help"

demo: setup ## Denoise a simulated low-dose chest CT on this machine with the whole compiled pipeline
	$(CTBASIS) demo --out demo

test: setup ## Run all tests that need no cluster
	env -u KUBECONFIG $(PY) -m pytest -n auto --dist loadfile

##@ Checks

ci: setup validator repositories browser chart-renderer lock-check audit style types layers site test package-check lint workflows ci-e2e ## Run all checks and tests, exactly as CI does

ci-e2e: setup ## Run the e2e tests on the cluster of KUBECONFIG or on one that CLUSTER_KIT starts, if there is either
	CLUSTER_KIT=$(CLUSTER_KIT) .ci/e2e

lock-check: .venv/.ready ## Check that uv.lock matches pyproject.toml
	$(UV) lock --check

validator: ## Install dciodvfy, by which the tests check the DICOM files that are written
	.ci/validator

repositories: ## Install the servers on which the tests check the sources that are not S3, and the peers of the DICOM node
	.ci/repositories

browser: ## Install Chromium, in which the tests open the summary of a cohort
	.ci/browser

chart-renderer: ## Install Helm, by which the tests render the chart
	.ci/helm

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

workflows: ## Check .github/workflows with actionlint
	.ci/workflows

##@ Documentation

SITE := build/site
SPELLED := README.md CONTRIBUTING.md SECURITY.md docs images/spark/mahout/README.md helm components ctbasis manifests

site: .venv/.ready ## Build the site of docs/ into build/site; a broken link or reference, or a misspelt word, is an error
	.venv/bin/codespell $(SPELLED)
	.venv/bin/sphinx-build --fail-on-warning --keep-going --quiet -b html -d build/doctrees docs $(SITE)

site-links: .venv/.ready ## Ask other sites whether the pages that docs/ links to exist; needs the Internet
	.venv/bin/sphinx-build -b linkcheck -d build/doctrees docs build/links

reference: .venv/.ready ## Write the pages of docs/reference that are made from tables of the code
	for page in parameters stores manifests; do $(PY) -m tests.docs.$${page}_page; done

figures: .venv/.ready ## Draw the figures of docs/explanation, and write their numbers into the tables beside them
	$(PY) -m tests.docs.figures

site-pictures: site browser ## Photograph the home page, a guide and the API page of the site: docs/project/*.png
	$(PY) -m tests.docs.photographs $(SITE) docs/project

##@ Measurements

bench: setup ## Measure pipeline, ingest and SVD, with all contenders in one run
	$(CTBASIS) bench

bench-quality: setup ## Compare denoisers, with BM3D and BM4D (non-commercial use only); SERIES="DIR DIR"
	$(UV) sync --frozen --all-extras --compile-bytecode
	$(CTBASIS) bench quality $(foreach one,$(SERIES),--series $(one))

cohort-picture: setup browser ## Make docs/cohort.png: the summary of a cohort of phantoms and published scans, in a browser
	$(PY) -m tests.cohort.picture docs/cohort.png

view-picture: setup browser ## Make docs/viewer.png: the viewer with a phantom, in a browser
	$(PY) -m tests.viewer.picture docs/viewer.png

orthanc-picture: setup browser repositories ## Make docs/orthanc.png: Orthanc's page with a phantom before and after denoising by a node
	$(PY) -m tests.node.picture docs/orthanc.png

view-speed: setup browser ## Measure the viewer on 300 slices of 512 x 512 in headless Chromium
	$(PY) -m tests.viewer.speed

##@ Images and clusters

IMAGES := spark steps
images: ## Build the images with docker, podman or buildah (BUILDER=); BASE= replaces the pinned Debian 12
	@test -n "$(BUILDER)" || { echo "docker, podman and buildah do not work here; name a builder by BUILDER=..." >&2; exit 1; }
	label=org.opencontainers.image; for image in $(IMAGES); do \
	  $(BUILDER) build --file images/$$image/Dockerfile --tag ctbasis/$$image:$(VERSION) \
	    --build-arg VERSION=$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_OPTIONS) \
	    --label $$label.source="$$(git remote get-url origin 2>/dev/null | grep -E '://|@' | sed -E 's#//[^/@]*@#//#')" \
	    --label $$label.revision="$$(git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)" \
	    --label $$label.created="$$(git log -1 --format=%cI 2>/dev/null)" .; done

image-ray: ## Build the image of a RayJob, which only the engine ray on Kubernetes needs
	$(MAKE) images IMAGES=ray

push: ## Push the images to REGISTRY=, and write their names with digests to PUSHED= (here/images.env)
	@test -n "$(REGISTRY)" || { echo "name your registry and its folder: make push REGISTRY=registry.example.com/ctbasis" >&2; exit 1; }
	images/push $(BUILDER) $(VERSION) $(REGISTRY) $(PUSHED) $(PUSH_OPTIONS)

release: setup ## Build the files of a release in dist/, of a commit with the tag of the version; REGISTRY=, REHEARSAL=1
	.ci/release $(VERSION) $(UV)

cluster-check:
	@tests/e2e/needs

e2e: cluster-check setup ## Test the svd step, the manifests and the whole pipeline on the cluster of KUBECONFIG
	$(PY) -m pytest -m e2e --capture=no $(PYTEST_OPTIONS) tests/e2e

e2e-operators: cluster-check setup ## Test the engines ray and dask, and Kueue, on the cluster of KUBECONFIG, which has their operators
	@tests/e2e/needs operators
	$(PY) -m pytest -m e2e --capture=no tests/e2e/test_operators.py tests/e2e/test_queue.py

e2e-nodes: cluster-check setup ## Switch off the node CTBASIS_NODE of the cluster of KUBECONFIG in the middle of the svd step
	@tests/e2e/needs nodes
	$(PY) -m pytest -m chaos --capture=no tests/e2e/test_nodes.py

chaos: cluster-check setup ## Inject faults on the cluster of KUBECONFIG one by one; prints the table of docs/explanation/cluster.md
	$(PY) -m pytest -m chaos --capture=no tests/e2e

scaling: cluster-check setup ## Measure the SVD with 1 and 2 executors on the cluster of KUBECONFIG
	$(PY) -m tests.e2e.scaling

overhead: cluster-check setup ## Measure on the cluster of KUBECONFIG what the svd step adds to a bare SparkApplication, and Argo to a run
	$(PY) -m tests.e2e.overhead

##@ Other

version: ## Print the version
	@echo $(VERSION)

CASES ?= 20000
SEED ?= 0
fuzz: setup ## Read CASES randomly damaged DICOM files, drawn from SEED
	$(PY) -m ctbasis.bench.fuzz --cases $(CASES) --seed $(SEED)

clean: ## Remove the files that setup and demo have made
	rm -rf .venv .cache demo demo.partial $(MAHOUT)/target

.cache/uv/bin/uv: images/uv.txt
	python3 -m venv .cache/uv
	.cache/uv/bin/python -m pip install --quiet --require-hashes --only-binary :all: --requirement images/uv.txt
	@touch $@

.venv/.ready: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen --all-extras --no-extra peers --compile-bytecode
	@touch $@

$(JAR): $(shell find $(MAHOUT) -path $(MAHOUT)/target -prune -o -type f -print)
	@images/spark/mahout/toolchain
	@rm -rf $(MAHOUT)/target  # files that the build of an earlier version unpacked would be compiled too
	mvn --quiet --batch-mode --file $(MAHOUT)/pom.xml package
	@touch $@
