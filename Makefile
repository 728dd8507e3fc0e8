# `make demo` and `make test` are all that a new machine needs; both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test unit test-docker bench chaos lint format contracts lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Run the main job on this machine alone: 30 events, three tenants, a table of the audit
	@$(BIN)/postbote demo

# The tests compile less with it unset: pytest then keeps what it made of their files.
unexport PYTHONDONTWRITEBYTECODE

# What needs no server goes over all cores. The rest waits more than it works: three processes, each with servers of
# its own (1.5 GB). What measures times or loads the whole machine comes last, one test after the other.
SERVERLESS := tests/integration/test_openapi_fuzzed.py tests/unit tests/control tests/commands
SPREAD := -n $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )) --dist worksteal
SERVERS ?= 3
SERVED := --ignore=tests/docker $(addprefix --ignore=,$(SERVERLESS))

test: $(VENV)/.dev ## Run every test against real servers (brought up by the tests)
	$(PYTEST) $(SERVERLESS) -q $(SPREAD)
	$(PYTEST) $(SERVED) -m "not alone and not chaos" -q -n $(SERVERS) --dist worksteal --durations=20
	$(PYTEST) $(SERVED) -m "alone or chaos" --durations=20

unit: $(VENV)/.dev ## The quick loop: no server, half a minute
	$(PYTEST) tests/unit -q $(SPREAD)

test-docker: $(VENV)/.dev ## The testcontainers fixtures and docker compose (needs a Docker engine)
	$(PYTEST) tests/docker -v

bench: $(VENV)/.dev ## Postbote beside Celery, dramatiq and aio-pika on this machine (BENCH="--long --latency --rtt")
	$(BIN)/python -m tests.bench $(BENCH)

chaos: $(VENV)/.dev ## Kill everything for an hour or two and count (CHAOS="--seed 7 --scenario mixed"; root or sudo)
	$(BIN)/python -m tests.chaos --long $(CHAOS)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.contracts --check

format: $(VENV)/.dev ## Format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

contracts: $(VENV)/.dev ## Generate schemas/published and the configuration table
	$(BIN)/python -m tools.contracts

lock: ## Pin the dependencies anew, with hashes (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml -o requirements/runtime.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra dev --constraint requirements/runtime.lock pyproject.toml -o requirements/dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/bench.in -o requirements/bench.lock

clean: ## Remove what was built
	rm -rf $(VENV) build .postbote .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Postbote needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The project itself is installed editable and without its dependencies: those come from the lock alone.
$(VENV)/.runtime: $(VENV)/bin/python requirements/runtime.lock pyproject.toml
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.lock
	@echo "installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@touch $@
