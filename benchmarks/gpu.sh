#!/usr/bin/env bash
# Everything that a GPU must show, in one call on one card: PASS or FAIL of each line, and the numbers.
#
#     benchmarks/gpu.sh [--out DIR] [--reduced] [--only correctness,speed,compiled,vllm] [--budget SECONDS]
#
# Both files are written after every line, so that a run that is cut off leaves what it found; `--cases paint,vaf` and
# `--methods`, which are timed in the order given, make it short.
#
# It wants a Python with torch for the card, transformers and pytest's friends; PYTHON names another one. It installs
# nothing. `--reduced` is the form that the tests run on a CPU.
#
# The larger training of the lab is another call, of ten minutes: benchmarks/results/lab2/README.md has it.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$(test -x .venv/bin/python && echo .venv/bin/python || echo python3)}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$PYTHON" -m benchmarks.gpu "$@"
