"""`grounddecode bench --engine vllm`: the answers of engine hf, sample by sample, from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
METHODS = "greedy,locore:beta=3,avc:alpha=1,sgrs:layers=1;2"
LIMIT = "12"


def bench(out: Path, *options: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The samples of a run, by what was asked."""
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([root, environment["PYTHONPATH"]])
    command = [sys.executable, "-m", "grounddecode", "bench", "--model", "lab", "--methods", METHODS]
    command += ["--benchmarks", "pope,chair", "--limit", LIMIT, "--batch-size", "16", "--out", str(out), *options]
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return {(line["method"], line["benchmark"], line["sample_id"]): line for line in lines if "response" in line}


def test_the_answers_are_those_of_engine_hf(tmp_path: Path) -> None:
    served = bench(tmp_path / "vllm", "--engine", "vllm", "--engine-option", "max_model_len=512")
    local = bench(tmp_path / "hf", "--dtype", "float32")
    assert served.keys() == local.keys()
    other = [key for key in local if served[key]["response"] != local[key]["response"]]
    assert len(other) <= len(local) // 100, other
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())["results"] for name in ("vllm", "hf")]
    assert metrics[0].keys() == metrics[1].keys()
