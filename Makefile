# `make` lists what there is to do. Needs Python >= 3.11, git and make; everything else is fetched into .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# PyTorch asks for the same large blocks in every step: glibc keeps them, where it would give them back each time.
export MALLOC_MMAP_THRESHOLD_ = 33554432
export MALLOC_TRIM_THRESHOLD_ = 8589934592

# Options reach the commands through the environment, word for word: neither make nor a shell evaluates them.
$(foreach name,PROFILE BASE RELEASE ANEW,$(if $(filter undefined,$(origin $(name))),,$(eval override $(name) := $$(value $(name)))))
export PROFILE BASE RELEASE ANEW

PYTHON ?= python3
UV := $(shell { uv --version >/dev/null 2>&1 && command -v uv; } || echo .uv-bootstrap/bin/uv)
RUN = $(UV) run --no-sync
SYNCED = .venv/.synced

.PHONY: help reproduce test lint lab base publish clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

reproduce: $(SYNCED) ## Run every notebook whose inputs changed (PROFILE=pocket | smoke | sd15 BASE=... RELEASE=...)
	@$(RUN) w2w reproduce

test: lint ## Check style, then run the tests, in two processes with one thread each
	@OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist load --maxschedchunk 1

lint: $(SYNCED) ## Check code and notebooks with ruff
	@$(RUN) ruff check
	@$(RUN) ruff format --check

lab: $(SYNCED) ## Open the workbook in JupyterLab
	@$(RUN) jupyter lab --notebook-dir . notebooks

base: $(SYNCED) ## Measure the shipped base model again; ANEW=1 trains another and replaces it (under four hours; resumes)
	@$(RUN) w2w base

publish: $(SYNCED) ## Put the executed pocket notebooks' outputs into notebooks/, their numbers into published/
	@$(RUN) w2w publish --profile pocket
	@$(RUN) w2w check --profile pocket

environment.yml: $(SYNCED) uv.lock ## Write the conda environment from uv.lock
	@$(RUN) w2w environment > $@

clean: ## Remove everything computed: outputs/, DVC's cache, tools' caches (not the base model, not .venv)
	@git clean -fdXq outputs dvc.lock .dvc/cache .dvc/tmp .pytest_cache .ruff_cache
	@rm -f $(SYNCED) # the next make writes anew what DVC reads

$(SYNCED): pyproject.toml uv.lock
	@$(UV) --version >/dev/null 2>&1 || $(MAKE) .uv-bootstrap/bin/uv
	@$(UV) sync --frozen --compile-bytecode # else each process compiles what it imports, where Python may not write it down
	@$(RUN) w2w prepare
	@touch $@

.uv-bootstrap/bin/uv:
	@echo "uv is missing: installing it into .uv-bootstrap" >&2
	@$(PYTHON) -m venv .uv-bootstrap 2>/dev/null && .uv-bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv \
	  || { rm -rf .uv-bootstrap; $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv-bootstrap uv; } \
	  || { echo "error: pip could not install uv; see https://docs.astral.sh/uv and run make again" >&2; exit 1; }
