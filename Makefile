# Everything that people and the CI do here. `make help` explains; `make run` is where to begin.

GRPC_PORT ?= 50051
HTTP_PORT ?= 3000
DATA_DIR ?= .local
GATEWAY ?= grpc
WORKERS ?= 1
FULL ?=
FUZZ_SECONDS ?=
FUZZ_REQUESTS ?=
FUZZ_RATE ?=
FUZZ_SEED ?=
TEST_PROCESSES ?= 2
AGAINST ?=
ARGS ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(shell find protos -name '*.proto' | sort)
# What callers were built with: all types, without comments. Changed by `make release-protos` only.
RELEASED_PROTOS := protos/released.binpb
SITE_PACKAGES = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# A compiler of its own, older than the one that would fit the services' protobuf: see requirements/protoc.in.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" .local/protoc/bin/python -m grpc_tools.protoc -Iprotos -I"$(SITE_PACKAGES)"
# Each process has servers and databases of its own; a module's tests stay together. Long modules begin first, and what
# took how long is said at the end (tests/kits/where_time_goes.py).
PYTEST = $(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	--durations=15 --durations-min=1
DEVELOPMENT := -m development.runner
# The runner stops everything when make itself is killed: it is tethered to make ($$PPID).
TETHERED := exec $(BIN)/python -I -S service_kit/child_process.py $$PPID

.PHONY: help
help: ## show this list
	@echo "usage: make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo "settings, with their defaults:"
	@echo "  GRPC_PORT=50051 HTTP_PORT=3000   where make run listens (on 127.0.0.1)"
	@echo "  DATA_DIR=.local                  where the private database and the logs are kept"
	@echo "  DATABASE_URL=                    mysql://user:password@host:port of a server to use instead of a private one"
	@echo "  GATEWAY=grpc                     how orders reach the warehouse: grpc, queued or auto"
	@echo "  WORKERS=1                        warehouse processes that share the port"
	@echo "  TEST_PROCESSES=2                 how many processes share the tests; 0: this one alone runs them"
	@echo "  FUZZ_SECONDS=120 FUZZ_REQUESTS=  how long make fuzz goes on, or until how many requests"
	@echo "  FUZZ_RATE=600 FUZZ_SEED=         how many a second (0: as fast as may be); a seed to repeat a run"
	@echo "  ARGS=                            more arguments for test, test-mysql, test-galera, e2e, attacks, audit and bench"

.PHONY: run
run: .runtime ## set everything up, start it all, and print a line beginning with 'ready'; Ctrl-C stops it
	@$(TETHERED) $(BIN)/python $(DEVELOPMENT) run --data-dir "$(DATA_DIR)" \
		--grpc-port "$(GRPC_PORT)" --http-port "$(HTTP_PORT)" --gateway "$(GATEWAY)" --workers "$(WORKERS)"

.PHONY: migrate
migrate: .runtime ## bring both databases to the newest schema
	@$(TETHERED) $(BIN)/python $(DEVELOPMENT) migrate --data-dir "$(DATA_DIR)"

.PHONY: audit
audit: .runtime ## check that the stock adds up and that the orders agree with it; ARGS=--repair mends both
	@$(TETHERED) $(BIN)/python $(DEVELOPMENT) audit --data-dir "$(DATA_DIR)" $(ARGS)

.PHONY: test
test: .dev .programs ## run all tests, on MariaDB
	@$(PYTEST) $(ARGS)

.PHONY: test-mysql
test-mysql: .dev .programs ## run the tests that touch SQL, and the end-to-end tests, on MySQL 9
	@TEST_DATABASE=mysql $(PYTEST) -m "(sql or e2e) and not galera" $(ARGS)

.PHONY: test-galera
test-galera: .dev .galera ## run the tests of what a cluster of three MariaDB nodes does to us; FULL=1 for longer
	@CHAOS_SECONDS="$(if $(FULL),300,1)" CLUSTER_SECONDS="$(if $(FULL),120,6)" $(BIN)/pytest -m galera $(ARGS)

.PHONY: e2e
e2e: .dev .programs ## run the whole flow against real processes, in every mode; results in test-results/
	@mkdir -p test-results
	@$(BIN)/pytest -m e2e --junit-xml=test-results/e2e.xml -rA --show-capture=no $(ARGS) | tee test-results/e2e.txt

.PHONY: fuzz
fuzz: .dev .programs ## send random and mutated requests to both services; fails on what surprises them
	@FUZZ_SECONDS="$(FUZZ_SECONDS)" FUZZ_REQUESTS="$(FUZZ_REQUESTS)" FUZZ_RATE="$(FUZZ_RATE)" \
		FUZZ_SEED="$(FUZZ_SEED)" $(BIN)/python -m tests.fuzzing

.PHONY: attacks
attacks: .dev .programs ## measure what a well-behaved caller notices of each attack; ARGS=WORD for those with it in their names
	@$(BIN)/python -m tests.attacks $(ARGS)

.PHONY: check
check: .dev check-protos ## lint (security, too), format, types, imports, protos, known vulnerabilities: all but the tests
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python tools/long_functions.py clients/python stockwarden warehouse order_gateway service_kit development benchmarks tools tests migrations
	@$(BIN)/python tools/vulnerable_pins.py requirements/runtime.txt requirements/dev.txt requirements/protoc.txt package-lock.json

.PHONY: format
format: .dev ## put the code into the house format, and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python tools/sync_client.py

.PHONY: protos
protos: .dev .protoc ## make generated/ from protos/
	@find generated -name '*_pb2*' -delete
	@$(call generate,generated)

.PHONY: check-protos
check-protos: .dev .protoc node_modules/.installed
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call generate,$$fresh); \
	diff -r --brief --exclude=__init__.py --exclude=__pycache__ "$$fresh" generated \
		|| { echo "generated/ is not what protos/ says: run 'make protos' and commit the outcome"; exit 1; }; \
	$(PROTOC) --include_imports --include_source_info -o "$$fresh/image.binpb" $(PROTOS); \
	node_modules/.bin/buf lint "$$fresh/image.binpb" --config buf.yaml; \
	node_modules/.bin/buf breaking "$$fresh/image.binpb" --against $(RELEASED_PROTOS) --config buf.yaml \
		|| { echo "protos/ breaks callers of what is released: add, don't change; or begin a new version (v2)"; exit 1; }

.PHONY: release-protos
release-protos: .dev .protoc ## take protos/ as released: from then on make check fails on what breaks its callers
	@$(PROTOC) --include_imports -o $(RELEASED_PROTOS) $(PROTOS)

# $(call generate,FOLDER): the Python code of all protos, in FOLDER. The files are registered under the names that they have
# in protos/, as in any other language; only what the code imports is made relative, so that it may stand in any package.
generate = $(PROTOC) --python_out="$(1)" --grpc_python_out="$(1)" \
	--mypy_out=quiet:"$(1)" --mypy_grpc_out=quiet:"$(1)" $(PROTOS); \
	find "$(1)" -name '*_pb2*.py*' -exec sed -i -E -e 's/^from warehouse\.v[0-9]+ import/from . import/' \
		-e "s/^(_builder\.BuildTopDescriptorsAndMessages\(DESCRIPTOR, )'[a-z0-9_.]+'/\1__name__/" {} +

.PHONY: dist
dist: .dev ## build wheels and source distributions of the services and of the client library, into dist/
	@rm -rf dist
	@bash tools/dist dist
	@ls dist

.PHONY: bench
bench: .dev ## measure; FULL=1 for everything; AGAINST=REVISION compares with that, workload by workload
	@$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(AGAINST),--against "$(AGAINST)") $(ARGS)

.PHONY: lock
lock: .dev ## pin the newest versions that pyproject.toml allows, with hashes
	@$(call compile) -o requirements/runtime.txt
	@$(call compile) --extra dev --constraint requirements/runtime.txt -o requirements/dev.txt
	@$(call pins) requirements/protoc.in -o requirements/protoc.txt

# The client library is built from this checkout; what it needs is pinned with the rest.
compile = $(call pins) pyproject.toml --no-emit-package stockwarden-client
pins = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate

.PHONY: clean
clean: ## remove what can be made again; the databases in DATA_DIR stay
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache node_modules test-results dist build *.egg-info clients/python/build clients/python/*.egg-info $(VENV)
	@find . -name __pycache__ -type d -not -path './.local/*' -prune -exec rm -rf {} +

# Set-up. Each step looks first whether there is anything to do, and says what it does when that takes time.

.PHONY: .runtime .dev .protoc .programs .galera
.runtime:
	@bash tools/setup runtime

.dev:
	@bash tools/setup dev

.protoc:
	@bash tools/setup protoc

.programs:
	@bash tools/setup tests

.galera:
	@bash tools/setup galera

node_modules/.installed: package.json package-lock.json
	@bash tools/setup node
	@touch $@
