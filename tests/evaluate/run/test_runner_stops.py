"""The bench that is killed, run in shards, scored again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.runner import merge, rescore
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine, answer, run, write_folder

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("batch", [1, 8])
def test_killed_again_and_again_it_loses_the_batch_in_flight_at_most(data: Path, tmp_path: Path, batch: int) -> None:
    out, rng = tmp_path / "run", random.Random(batch)
    command = [sys.executable, "-m", "tests.evaluate.fake", str(data), str(out), "0.02", str(batch)]
    seen: dict[tuple[str, str], str] = {}
    for _ in range(4):
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        before = len(seen)
        deadline = time.monotonic() + 300
        while child.poll() is None and _lines(out) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        assert child.stderr is not None
        assert child.wait() in (0, -signal.SIGKILL), child.stderr.read().decode()
        records = {(r["method"], r["sample_id"]): r["response"] for r in RunFolder(out).records()}
        assert len(records) > before  # each start gets further
        assert {key: records[key] for key in seen} == seen  # and nothing that was there is lost or asked again
        seen = records
    assert len(seen) < 228
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    text = (out / "samples.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in text]
    assert len(lines) == len({(line["method"], line["sample_id"]) for line in lines}) == 228  # each asked once
    whole = run(data, tmp_path / "whole", batch_size=batch, resamples=10)
    assert json.loads((out / "metrics.json").read_text())["results"] == whole["results"]


def _lines(out: Path) -> int:
    try:
        return (out / "samples.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_every_batch_is_on_the_disk_before_the_next_one(data: Path, tmp_path: Path) -> None:
    lines: list[int] = []

    class Looks(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            lines.append(_lines(tmp_path))
            return super().generate(requests, decoding, methods)

    run(data, tmp_path, Looks(), benchmarks=["chair"], methods=["greedy"], batch_size=1)
    assert lines == [0, 1, 2, 3, 4, 5]


# -- shards, scoring ---------------------------------------------------------------------------------------------------


def test_shards_merge_into_the_whole_run(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    parts = [tmp_path / f"part{index}" for index in (1, 2, 3)]
    for index, part in enumerate(parts, 1):
        run(data, part, shard=f"{index}/3")
    pictures = [{r["image_id"] for r in RunFolder(part).records()} for part in parts]
    assert sum(len(found) for found in pictures) == 6
    merged = merge([parts[2], parts[0], parts[1]], tmp_path / "merged")
    assert merged["results"] == whole["results"]
    assert merged["run"]["settings"]["shard"] is None
    assert len(merged["run"]["sessions"]) == 3
    assert rescore(tmp_path / "merged")["results"] == whole["results"]
    with pytest.raises(ValueError, match="holds the merged shards of a run, which is not continued"):
        run(data, tmp_path / "merged")


def test_shards_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    for index in (1, 2):
        run(data, tmp_path / f"{index}", shard=f"{index}/3", limit=6)
    run(data, tmp_path / "other", shard="3/3", limit=6, seed=1)
    run(data, tmp_path / "four", shard="4/4", limit=6)
    run(data, tmp_path / "whole", limit=6)
    one, two = tmp_path / "1", tmp_path / "2"
    for runs, said in (
        ([], "nothing to merge"),
        ([one, two], "shard 3/3 is missing"),
        ([one, two, one], "are both shard 1/3"),
        ([one, two, tmp_path / "other"], "seed 1, not 0"),
        ([one, two, tmp_path / "four"], "is shard 4/4, the one before is of 3"),
        ([one, two, tmp_path / "whole"], "is no shard but a whole run"),
        ([one, tmp_path], "holds no run.json"),
    ):
        with pytest.raises(ValueError, match=said):
            merge(runs, tmp_path / "merged")
    run(data, tmp_path / "3", shard="3/3", limit=6)
    with pytest.raises(ValueError, match="holds a run already"):
        merge([one, two, tmp_path / "3"], tmp_path / "whole")


def test_a_stopped_run_is_scored_as_far_as_it_is_and_not_merged(data: Path, tmp_path: Path) -> None:
    class Stopping(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().generate(requests, decoding, methods)

    one, two = tmp_path / "1", tmp_path / "2"
    run(data, two, shard="2/2")
    with pytest.raises(KeyboardInterrupt):
        run(data, one, Stopping(), shard="1/2", batch_size=2)
    assert 0 < rescore(one, resamples=10)["run"]["n_answers"] < rescore(two, resamples=10)["run"]["n_answers"]
    with pytest.raises(ValueError, match=r"holds \d+ of \d+ answers: run its command again"):
        merge([one, two], tmp_path / "merged")
    run(data, one, shard="1/2", batch_size=2)
    run(data, two, shard="2/2")
    with pytest.raises(ValueError, match="batch_size"):
        merge([one, two], tmp_path / "merged")


def test_scoring_again_needs_no_engine_and_no_data(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data")
    first = run(data, tmp_path / "run")
    os.rename(data, tmp_path / "gone")
    (tmp_path / "run" / "metrics.json").unlink()
    assert rescore(tmp_path / "run") == first
    opera = rescore(tmp_path / "run", pope_rule="opera", resamples=30)
    assert opera["results"]["greedy"]["pope"]["random"]["rule"] == "opera"
    assert rescore(tmp_path / "run") == opera  # the last choice is the one that is kept
    with pytest.raises(ValueError, match="does not exist"):
        rescore(tmp_path / "run", chair_flavour="fixed")  # has a ground truth of its own
    os.rename(tmp_path / "gone", data)
    assert rescore(tmp_path / "run", chair_flavour="fixed")["results"]["greedy"]["chair"]["flavour"] == "fixed"
    with pytest.raises(ValueError, match=r"holds no run\.json"):
        rescore(tmp_path)


def test_provenance_is_complete_and_names_no_folder_of_ours(data: Path, tmp_path: Path) -> None:
    told = run(data, tmp_path)["run"]
    assert told["settings"]["seed"] == 0
    assert told["versions"]["grounddecode"]
    assert told["hardware"]["cores"] >= 1
    assert told["engine"]["dtype"] == "float32"
    assert len(told["hash"]) == 64
    assert str(ROOT) not in json.dumps({key: told[key] for key in told if key != "data"})


def test_pictures_reach_the_engine(data: Path, tmp_path: Path) -> None:
    request = Request(sample_id="x", prompt="Describe", images=(Image.new("RGB", (8, 8), (2, 0, 0)),))
    assert answer(request) == "There is a car and a chair. I see a bowl."
