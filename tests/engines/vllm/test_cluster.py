"""`grounddecode bench --engine vllm --ray local`: vLLM in an actor answers as vLLM in this process does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")]


def bench(out: Path, *options: str) -> dict[tuple[str, str], str]:
    """By method and sample, each there once."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "grounddecode", "bench", "--model", "lab", "--engine", "vllm"]
    command += ["--methods", "greedy,locore:beta=3", "--benchmarks", "chair", "--limit", "4", "--batch-size", "4"]
    command += ["--engine-option", "max_model_len=512", "--engine-option", "enforce_eager=true", "--out", str(out)]
    done = subprocess.run([*command, *options], cwd=out.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    found = {(line["method"], line["sample_id"]): line["response"] for line in lines}
    assert len(found) == len(lines) == 8
    return found


def test_vllm_in_an_actor(tmp_path: Path) -> None:
    alone = bench(tmp_path / "alone")
    assert bench(tmp_path / "spread", "--ray", "local", "--ray-actors", "1") == alone
    samples = {sample for _, sample in alone}
    assert any(alone["greedy", one] != alone["locore:beta=3", one] for one in samples)  # the method reached it
