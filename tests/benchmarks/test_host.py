"""What the host does in a card's step, capped by what does not depend on the machine: calls of functions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Calls that a method may add to a step of 32 layers, those of the base attention taken off.
MOST = {"locore": 785, "vaf": 570, "paint": 790, "heads": 925, "spin": 925, "var": 1290, "sgrs": 1750}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """In a process of its own, since Triton is replaced there."""
    out = tmp_path_factory.mktemp("host") / "host.json"
    sizes = ("--steps", "4", "--repeats", "1", "--out", str(out))
    command = [sys.executable, "-m", "benchmarks.timing.host", "--methods", ",".join(["greedy", *MOST]), *sizes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return {row["method"]: row for row in json.loads(out.read_text())["methods"]}


@pytest.mark.parametrize("method", MOST)
def test_methods_add_no_more_calls_than_this(method: str, rows: dict[str, dict]) -> None:
    assert 0.5 * MOST[method] < rows[method]["added_calls"] <= MOST[method]


def test_the_plain_model_adds_none(rows: dict[str, dict]) -> None:
    assert abs(rows["greedy"]["added_calls"]) < 1
    assert all(row["ratio"] > 0 for row in rows.values())
