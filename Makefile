# A newcomer needs: make run. A colleague needs: make test check.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CACHES := .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# `make run PORT=8123`: a variable becomes an option; HOST only if it stands on the command line,
# because some shells export one of their own.
option = $(if $($(1)),--$(2) '$($(1))')
HOST_GIVEN := $(if $(findstring command,$(origin HOST)),$(HOST))
UP = $(call option,MODEL,model) $(call option,WORKERS,workers) $(call option,GPUS,gpus) \
     $(call option,HOST_GIVEN,host) $(call option,PORT,port) $(call option,DATA_DIR,data-dir)

# All tests: one process more than cores, since many only wait. A few: in one process, as pytest does.
MOST = $(shell cores=`getconf _NPROCESSORS_ONLN`; echo $$((cores < 8 ? cores + 1 : 8)))
JOBS = $(if $(T),0,$(MOST))

VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run venv test slow chaos chaos-celery soak clients fuzz gpu check images fmt constraints clean

help:  ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

run: .venv/.local  ## a whole farm here; PORT= HOST= MODEL= WORKERS= GPUS= DATA_DIR=
	$(BIN)/renderfarm up $(UP)

venv: .venv/.dev  ## .venv with all that development needs

test: .venv/.dev  ## every test that this machine can run; T= chooses, such as T='-k cancel'
	@if [ -x tests/setup-servers ]; then tests/setup-servers; fi
	$(BIN)/python -m pytest -m 'not slow and not clients' -n $(JOBS) $(T)

slow: .venv/.dev  ## each named fault, a rolling change, a failover: a quarter of an hour
	@if [ -x tests/setup-servers ]; then tests/setup-servers; fi
	$(BIN)/python -m pytest -m slow $(T)

chaos: .venv/.dev  ## kill everything under load, then count; SEED= MINUTES=
	$(BIN)/python -m tests.chaos $(call option,SEED,seed) $(call option,MINUTES,minutes)

chaos-celery: .venv/.dev  ## the same load and faults against plain Celery; SEED= MINUTES=
	$(BIN)/python -m tests.chaos.plain_celery $(call option,SEED,seed) $(call option,MINUTES,minutes)

soak: .venv/.dev  ## one worker, many renders, flat memory; RENDERS=
	$(BIN)/python -m tests.chaos.soak $(call option,RENDERS,renders)

clients: .venv/.dev .clients/ready  ## real clients of other people against a running farm; installs them first
	$(BIN)/python -m pytest -m clients tests/clients $(T)

fuzz: .venv/.dev  ## thousands of requests that nobody foresaw; CASES= MINUTES=
	$(BIN)/python -m tests.fuzz $(call option,CASES,cases) $(call option,MINUTES,minutes)

gpu: .venv/.dev  ## the tests that need a GPU
	$(BIN)/python -m pytest -m gpu $(T)

check: .venv/.dev  ## style, types, import rules, dashboards and deployment files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.grafana --check
	$(BIN)/python -m tests.manifests

images:  ## container images of the API and the worker; needs Docker; VERSION=
	docker build -f deploy/docker/api.Dockerfile -t renderfarm-api:$(VERSION) .
	docker build -f deploy/docker/worker.Dockerfile -t renderfarm-worker:$(VERSION) .

fmt: .venv/.dev  ## format, mend what can be mended, renew what is generated
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tests.readme
	$(BIN)/python -m tests.metrics
	$(BIN)/python -m deploy.grafana

constraints:  ## pin the newest versions that fit together; needs uv
	@command -v uv >/dev/null || { echo "make constraints needs uv: docs.astral.sh/uv"; exit 1; }
	uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --no-header --no-annotate pyproject.toml -o constraints.txt

clean:  ## take away .venv and caches; never the data folder
	rm -rf .venv .clients build dist $(CACHES)

# The install is editable: changed code needs no reinstall, changed dependencies do.
.venv/.local: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[local]'
	@touch $@

.venv/.dev: .venv/.local
	$(PIP) -e '.[dev]'
	@touch $@

# Each in a folder of its own, as its users have it; versions are pinned beside the tests.
.clients/ready: $(wildcard tests/clients/*.txt tests/clients/package*.json) | .venv/bin/python
	for name in openai-2 openai-3 node; do \
	  $(BIN)/python -m venv .clients/$$name && .clients/$$name/bin/python -m pip install --quiet \
	    --disable-pip-version-check -r tests/clients/$$name.txt || exit 1; done
	mkdir -p .clients/node/project && cp tests/clients/package*.json .clients/node/project/
	cd .clients/node/project && PATH="$(CURDIR)/.clients/node/bin:$$PATH" npm ci --no-audit --no-fund
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "renderfarm needs Python 3.11 to 3.13, such as: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python has no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
