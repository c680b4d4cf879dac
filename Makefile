.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Most tests wait for a server most of the time: more of them at once than there are cores. 0: one after the other.
WORKERS ?= 3
# With `no`, `make test` leaves out what `make test-swarm` runs alone: it wants root on a Linux that can run Docker.
SWARM ?= yes
# Where `make bench` finds the independent load generator and the peer servers.
YARDSTICK ?= ../shared/bench
# An option of stacks.images.make, where its variable is set: --base-image from BASE_IMAGE.
given = $(if $($(subst -,_,$(shell echo $(1) | tr a-z A-Z))),--$(1) "$($(subst -,_,$(shell echo $(1) | tr a-z A-Z)))")
COMPILE := uv pip compile --quiet --universal --no-header --no-annotate --python-version 3.11 pyproject.toml

.PHONY: help env dev demo city test test-swarm fuzz check format lock bench bench-quick images dashboards dashboard-pictures clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.installed ## Make the environment .venv/ with what requirements.lock pins: all that the demo needs

$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

dev: $(VENV)/.installed-dev ## Add what requirements-dev.lock pins: the tools, every store's client library, what the tests' servers need

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	@touch $@

$(VENV)/.installed-city: $(VENV)/.installed requirements-city.lock
	$(BIN)/python -m pip install --quiet -r requirements-city.lock
	@touch $@

demo: env ## Run the whole way on this machine: two Kafkas, gateway, replicator, sink, sensors (ARGS="--for 60 --wan-cut 20")
	$(BIN)/headwater demo $(ARGS)

city: $(VENV)/.installed-city ## Run the sensor city: the way with stations, analytics, Cassandra and Redis (ARGS="--stations 4 --for 60")
	$(BIN)/headwater demo city $(ARGS)

test: dev ## Run every test, on real servers that the tests install and start themselves (ARGS="-k name")
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --max-worker-restart=0 $(if $(filter no,$(SWARM)),-m "not swarm") $(ARGS)

test-swarm: dev ## Deploy a whole fleet on a Docker Swarm of the test's own, break it and audit it (root on Linux; some twenty minutes)
	$(BIN)/python -m pytest -m swarm tests/stacks $(ARGS)

$(VENV)/.installed-fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet --constraint requirements-dev.lock -e ".[fuzz]"
	@touch $@

fuzz: $(VENV)/.installed-fuzz ## Look for bytes that what strangers reach cannot take, a minute a surface (ARGS="--seconds 600 --only tlv,coap")
	$(BIN)/python -m tests.fuzz.run $(ARGS)

check: dev ## Format, lint, types, import rules, pinned schema ids
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/schemas/avro/test_ids.py

format: dev ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Resolve the dependencies anew into requirements.lock, requirements-city.lock and requirements-dev.lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/$(COMPILE) --extra dev -o requirements-dev.lock
	.venv-lock/bin/$(COMPILE) --extra kafka --constraint requirements-dev.lock -o requirements.lock
	.venv-lock/bin/$(COMPILE) --extra city --constraint requirements-dev.lock -o requirements-city.lock
	.venv-lock/bin/python -m stacks.images.lock .venv-lock/bin/uv
	rm -rf .venv-lock

bench: dev ## Measure all figures, each beside its yardstick in the same run (hours; ARGS="--write", ARGS="--parts servers")
	$(BIN)/python -m tests.bench.run --yardstick $(YARDSTICK) $(ARGS)

bench-quick: dev ## Measure the main figures beside the peers, roughly (three minutes)
	$(BIN)/python -m tests.bench.run --yardstick $(YARDSTICK) --quick $(ARGS)

images: env ## Build the images headwater and headwater-kafka, each with its SBOM in build/sbom/ (VERSION=, PLATFORM=, BASE_IMAGE=, EXTRAS=edge)
	$(BIN)/python -m stacks.images.make $(foreach word,version platform base-image kafka-base-image extras java wheels,$(call given,$(word))) $(ARGS)

dashboards: dev ## Write Grafana's dashboards, stacks/grafana/dashboards/*.json, anew from their code
	$(BIN)/python -m stacks.grafana.build

dashboard-pictures: dev ## Draw the dashboards for the docs from a running system (minutes; the services need Docker)
	$(BIN)/python -m tests.stacks.dashboard_pictures

clean: ## Remove the environment, caches and whatever the demo left
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .headwater
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
