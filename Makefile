# What a person types. Every target installs what it needs.
SHELL := bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
UV_VERSION := 0.13.9
CONFIG ?= configs/quickstart.yaml
MODEL ?=
ONLY ?=
WHAT ?=
export UV_HTTP_TIMEOUT ?= 180
export UV_LINK_MODE ?= hardlink
# What pip is told about where packages are holds for uv too. SSL_CERT_FILE is honoured by both.
export UV_FIND_LINKS ?= $(shell printf '%s' "$$PIP_FIND_LINKS" | tr ' ' ',')
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

UV := .venv/bin/uv
ETO := .venv/bin/eto
MYPY := .venv/bin/mypy --no-error-summary
# Tests need not be typed throughout, but what they call must be there, with those arguments.
TESTS_TYPES := --explicit-package-bases --ignore-missing-imports --implicit-reexport --no-strict-optional \
  --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --no-warn-return-any --no-warn-unreachable
ENVS := sciworld webshop alfworld
READY := .venv/.ready $(ENVS:%=services/env-%/.venv/.ready) services/policy/.venv/.ready services/trainer/.venv/.ready

# Each part's tests, and the virtual environment that they run in.
PARTS := orchestrator/tests=.venv services/env-core/tests=services/env-sciworld/.venv \
  $(foreach env,$(ENVS),services/env-$(env)/tests=services/env-$(env)/.venv) services/policy/tests=services/policy/.venv \
  services/trainer/tests=services/trainer/.venv tests=.venv
# pytest's exit code where no test matches
NOTHING_CHOSEN := 5

.PHONY: help install ray quickstart test check bench soak study up down clean
help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install: $(READY) ## make the virtual environments (one per service)

ray: .venv/.ready ## add Ray to the orchestrator, for clusters (docs/scale.md)
	$(UV) pip install --quiet --python .venv -r orchestrator/requirements-ray.txt

.venv/bin/uv:
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Compiled here, since `eto --help` is to be instant also for the first time and where PYTHONDONTWRITEBYTECODE is set.
.venv/.ready: .venv/bin/uv orchestrator/requirements-dev.txt orchestrator/pyproject.toml
	$(UV) pip install --quiet --python .venv --compile-bytecode -r orchestrator/requirements-dev.txt
	$(UV) pip install --quiet --python .venv --no-deps -e orchestrator
	.venv/bin/python -m compileall -q orchestrator/orchestrator
	@touch $@

# What of a list needs no dependencies of its own stands in requirements-*-alone.txt.
services/env-%/.venv/.ready: .venv/bin/uv $(wildcard services/env-*/requirements*.txt services/env-*/pyproject.toml)
	$(UV) venv --quiet --allow-existing --python .venv/bin/python $(@D)
	$(UV) pip install --quiet --python $(@D) -r services/env-$*/requirements.txt -r services/env-$*/requirements-dev.txt
	$(foreach list,$(wildcard services/env-$*/requirements-*-alone.txt),$(UV) pip install --quiet --python $(@D) --no-deps -r $(list))
	$(UV) pip install --quiet --python $(@D) --no-deps -e services/env-core -e services/env-$*
	@touch $@

# torch comes by itself, with what its build needs: nothing for the CPU build, the CUDA libraries for PyPI's.
services/policy/.venv/.ready: .venv/bin/uv $(wildcard services/policy/requirements*.txt services/policy/pyproject.toml services/policy/*/pyproject.toml)
	$(UV) venv --quiet --allow-existing --python .venv/bin/python $(@D)
	$(UV) pip install --quiet --python $(@D) --no-deps -r services/policy/requirements.txt -r services/policy/requirements-dev.txt
	$(UV) pip install --quiet --python $(@D) torch==2.13.0
	$(UV) pip install --quiet --python $(@D) --no-deps -e services/policy -e services/policy/vllm-name
	@touch $@

services/trainer/.venv/.ready: .venv/bin/uv $(wildcard services/trainer/requirements*.txt services/trainer/pyproject.toml)
	$(UV) venv --quiet --allow-existing --python .venv/bin/python $(@D)
	$(UV) pip install --quiet --python $(@D) -r services/trainer/requirements.txt -r services/trainer/requirements-dev.txt
	$(UV) pip install --quiet --python $(@D) --no-deps -r services/trainer/requirements-dev-alone.txt
	$(UV) pip install --quiet --python $(@D) --no-deps -e services/trainer
	@touch $@

# The environment that a configuration names; the others need not be installed for it.
ENV = $(shell sed -nE 's/^ +name: +(sciworld|webshop|alfworld).*/\1/p' $(CONFIG) | head -1)
quickstart: .venv/.ready services/env-$(ENV)/.venv/.ready services/policy/.venv/.ready services/trainer/.venv/.ready ## the whole loop on this machine: SFT, evaluate, explore, pair, DPO, evaluate (MODEL=..., CONFIG=...)
	$(ETO) run $(CONFIG) $(if $(MODEL),--set model=$(MODEL))

check: $(READY) ## ruff, types, Dockerfiles and the compose file; no test is run
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(MYPY) orchestrator/orchestrator
	MYPYPATH=orchestrator:tests:benchmarks/study $(MYPY) $(TESTS_TYPES) tests benchmarks/study
	MYPYPATH=orchestrator:orchestrator/tests $(MYPY) $(TESTS_TYPES) orchestrator/tests
	$(MYPY) --python-executable services/env-sciworld/.venv/bin/python services/env-core/env_core
	@set -e; for env in $(ENVS); do \
	  $(MYPY) --python-executable services/env-$$env/.venv/bin/python services/env-$$env/env_$$env; done
	$(MYPY) services/policy/policy
	$(MYPY) --python-executable services/trainer/.venv/bin/python services/trainer/trainer
	.venv/bin/hadolint --config .hadolint.yaml orchestrator/Dockerfile services/*/Dockerfile deploy/kubernetes/*.Dockerfile
	.venv/bin/docker-compose --profile '*' config --quiet

test: check ## check, then all tests, the quick ones first; WHAT='-k word' chooses
	@set -e; for speed in "not slow" "slow"; do for part in $(PARTS); do \
	  echo "== $${part%%=*} ($$speed)"; \
	  $${part##*=}/bin/python -m pytest -q -m "$$speed" $(WHAT) $${part%%=*} || test $$? = $(NOTHING_CHOSEN); \
	done; done

# A script's first line names the interpreter of the virtual environment that it needs. What is not executable is a part of others.
scripts = $(basename $(notdir $(shell find $(1) -maxdepth 1 -name '*.py' -executable)))
bench: install ## measure, as ratios in one run: make bench ONLY=sciworld; writes benchmarks/out/ONLY.json
	@set -e; for name in $(or $(ONLY),$(call scripts,benchmarks)); do benchmarks/$$name.py; done

soak: install $(if $(filter ray_cluster,$(or $(ONLY),ray_cluster)),ray) ## long proofs: make soak ONLY=loop; writes benchmarks/out/soak-ONLY.json; ENV=webshop chooses the environment of ONLY=core_*
	@set -e; for name in $(or $(ONLY),$(call scripts,benchmarks/soak)); do \
	  benchmarks/soak/$$name.py $(if $(filter command,$(origin ENV)),--env $(ENV)); done

study: install ## a learning study (docs/results.md): make study ONLY=sciworld; goes on where it was; its runs stay in runs/study-ONLY
	benchmarks/study/study.py $(or $(ONLY),sciworld)

up: install ## start the services as local processes
	$(ETO) services up

down: ## stop them
	$(ETO) services down

clean: ## stop services; remove virtual environments, caches and local state (runs are kept)
	@test ! -x $(ETO) || $(ETO) services down
	rm -rf .venv services/*/.venv .eto .ruff_cache .mypy_cache .pytest_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
