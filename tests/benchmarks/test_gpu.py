"""The script for a GPU in its reduced form, which a CPU runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHORT = ("--reduced", "--only", "correctness,speed,compiled,vllm", "--methods", "locore,avc")


def test_the_reduced_form_runs_here_and_says_what_passed(tmp_path: Path) -> None:
    command = ["benchmarks/gpu.sh", *SHORT, "--out", str(tmp_path)]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("PASS: 0 lines failed")
    found = json.loads((tmp_path / "gpu.json").read_text())
    exact = [line for line in found["correctness"] if line.get("precision") == "float32"]
    assert {line["family"] for line in exact} == {"llava", "qwen2_5_vl"}
    assert {"greedy", "locore", "avc-zeros", "sgrs"} <= {line["case"] for line in exact}
    assert all(line["largest"] <= 1e-6 for line in exact if "largest" in line)  # the same computation twice
    timed = [line for line in found["speed"] if "built_in_s" not in line]
    assert {line["method"] for line in timed} == {"locore", "avc"}
    assert all(line["decode_ratio"] > 0 for line in timed)
    assert "flash_attn" in str([line for line in found["correctness"] if "skipped" in line])
    assert "| llava-reduced | 1 | locore |" in (tmp_path / "gpu.md").read_text()


def test_what_there_is_no_time_for_is_said_and_what_was_found_is_kept(tmp_path: Path) -> None:
    short = ("--reduced", "--only", "correctness", "--families", "llava", "--cases", "vaf", "--budget", "0")
    command = ["benchmarks/gpu.sh", *short, "--out", str(tmp_path)]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())["correctness"]
    assert [line.get("case") for line in found] == ["greedy", None, None]
    assert found[1]["skipped"] == "the time was up"


def test_a_part_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    command = ["benchmarks/gpu.sh", "--reduced", "--only", "speeed", "--out", str(tmp_path)]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--only speeed: it knows correctness, speed, compiled, vllm" in done.stderr
