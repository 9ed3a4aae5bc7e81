# Each target calls the real thing. All work as root, with or without sudo on the machine; without root, `run`, `test`,
# `test-kernels`, `bench`, `bench-vm`, `soak` and `demo` ask sudo. `make help` lists them.
SHELL := /bin/bash
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env)
PYTHON := /usr/bin/python3
VENV := .venv/bin

.PHONY: help setup run test test-services test-aside test-kernels check lint fuzz format bench bench-vm soak demo kafka-tier collector jaeger setup-check setup-vm setup-test setup-kafka setup-fuzz python
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: python ## install what is missing to run the agent; leaves .venv/bin/otel-ebpf
	@$(PYTHON) tools/setup.py run

run: setup ## watch every service of this host, one line a request
	@exec $(AS_ROOT) env OTEL_EBPF_TRACE_PRINTER=$${OTEL_EBPF_TRACE_PRINTER:-text} $(VENV)/otel-ebpf run

check: lint ## lint, and tests that need no root: two minutes
	@$(VENV)/python -m pytest -q -m 'not kernel and not end_to_end'

lint: setup-check ## format, lint, types: in seconds
	@$(VENV)/ruff format --check --quiet . || { echo 'run: make format'; exit 1; }
	@$(VENV)/ruff check --quiet .
	@$(VENV)/clang-format --dry-run --Werror $$(find bpf -name '*.[ch]')
	@$(VENV)/mypy

format: setup-check ## write the formatting that `check` asks for
	@$(VENV)/ruff format --quiet . && $(VENV)/ruff check --quiet --fix . && $(VENV)/clang-format -i $$(find bpf -name '*.[ch]')

# In two runs at once: what needs a processor for minutes gives way to services, which mostly wait.
TESTS = $(AS_ROOT) env OTEL_EBPF_TESTS=all $(VENV)/python -u -m pytest
SERVICES = end_to_end and not guest
LINES = sed -u ''  # whole ones, so that the two do not mix

test: setup-test ## all tests: kernel and end-to-end ones too; a missing part is a failure
ifdef PYTEST_ARGS
	@$(TESTS) $(PYTEST_ARGS)
else
	@$(MAKE) --no-print-directory --keep-going --jobs=2 test-services test-aside
endif

test-services:
	@set -o pipefail; $(TESTS) -m '$(SERVICES)' 2>&1 | $(LINES)
test-aside:
	@set -o pipefail; nice -n 10 $(TESTS) -m 'not ($(SERVICES))' 2>&1 | $(LINES)

test-kernels: setup-test ## the kernel tests on Debian's 5.10, 6.1 and 6.12 and on this host's; KERNELS='6.1 6.12-cloud'
	@$(AS_ROOT) $(VENV)/python -m tests.vm.all_kernels $(KERNELS)

fuzz: setup-fuzz ## look for input that breaks the parsers; FUZZ_ARGS='--seconds 600 http1'
	@$(VENV)/python -m tests.fuzz $(FUZZ_ARGS)

bench: setup-test ## what the agent costs, side by side with none
	@$(AS_ROOT) $(VENV)/python -m tests.bench $(BENCH_ARGS)

bench-vm: setup-test ## the same counted in instructions, on Linux 6.1 in an emulator; BENCH_ARGS='--hooks kprobe --only start'
	@$(AS_ROOT) $(VENV)/python -m tests.vm.bench $(BENCH_ARGS)

soak: setup-test ## an hour of steady load and of outages; SOAK_ARGS='--seconds 60 steady spool memory'
	@$(AS_ROOT) $(VENV)/python -m tests.soak $(SOAK_ARGS)

kafka-tier: setup-kafka ## collector-config/kafka/ with Apache Kafka: outages, killed gateways; KAFKA_ARGS=outage for one of them
	@$(VENV)/python -m tests.kafka $(KAFKA_ARGS)

collector: setup-test ## build the OpenTelemetry Collector that the tests use; prints its path
	@$(VENV)/python -m tools.go_build tests/collector

demo: setup-test ## a small shop, watched: services, visitors, agent, collector and Jaeger, until Ctrl-C
	@exec $(AS_ROOT) $(VENV)/python -m examples.shop $(DEMO_ARGS)

jaeger: setup-test ## build the Jaeger that the tests and the demo use; prints its path
	@$(VENV)/python -m tools.go_build tests/jaeger

setup-check setup-vm setup-test setup-kafka setup-fuzz: setup-%: python
	@$(PYTHON) tools/setup.py $*

# The one thing that setup.py cannot install: what it runs on.
python:
	@[ -x $(PYTHON) ] || { $(AS_ROOT) apt-get update -q && $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q python3; } </dev/null
