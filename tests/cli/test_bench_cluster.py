"""`bench --ray local` on the embedded model: two real engines beside each other answer as one does."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from grounddecode.cli import main
from tests.cli.conftest import Run, assert_sentence

SMALL = ["--model", "lab", "--limit", "4", "--max-new-tokens", "12", "--batch-size", "4"]
METHODS = "greedy,sample+cut,locore,avc"


def answers(out: Path) -> dict[tuple[str, str], tuple[str, int]]:
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    found = {(line["method"], line["sample_id"]): (line["response"], line["n_tokens"]) for line in lines}
    assert len(found) == len(lines) == 4 * 16
    return found


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
def test_two_engines_answer_as_one(grounddecode: Run, tmp_path: Path) -> None:
    command = ["bench", *SMALL, "--methods", METHODS, "--benchmarks", "pope,chair"]
    assert main([*command, "--out", str(tmp_path / "one")]) == 0
    done = grounddecode(*command, "--out", tmp_path / "two", "--ray", "local", "--ray-actors", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    found = json.loads(done.stdout)
    for method in METHODS.split(","):
        assert found["results"][method]["chair"]["n"] == 4
    assert found["run"]["sessions"][0]["cluster"]["actors"] == 2
    assert "bench: 64/64" in done.stderr
    assert main([*command, "--out", str(tmp_path / "two"), "--methods", METHODS]) == 0  # one process goes on from there


def test_companions_need_a_cluster(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *SMALL, "--out", str(tmp_path), "--ray-actors", "2"]) == 2
    assert "give --ray local, auto or an address" in capfd.readouterr().err


@pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray")
def test_a_cluster_that_is_not_there_is_one_sentence(grounddecode: Run, tmp_path: Path) -> None:
    refused = grounddecode("bench", *SMALL, "--out", tmp_path / "run", "--ray", "127.0.0.1:1")
    assert_sentence(refused, "127.0.0.1:1", "ray start")
