"""The bench on a Ray cluster: the answers of one process, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from grounddecode.engines.base import Engine
from grounddecode.evaluate.cluster.connection import Cluster
from grounddecode.evaluate.run.keeping import Progress
from grounddecode.evaluate.run.runner import Recipe, bench, rescore
from tests.evaluate.cluster import engines
from tests.evaluate.cluster.conftest import METHODS, SMALL
from tests.evaluate.fake import run

ROOT = Path(__file__).parents[3]
Opens = Callable[..., Engine]


def spread(nodes: Any, data: Path | str, out: Path, opens: Opens = engines.slow, **more: Any) -> dict[str, Any]:
    progress, actors = more.pop("progress", None), more.pop("actors", None)
    options = {"model": "fake", "methods": METHODS, "batch_size": 4, "resamples": 20, **more}
    cluster = Cluster(nodes.address, actors, opens=opens)
    return bench(Recipe(data=str(data), **options), out, cluster=cluster, progress=progress)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]


def answers(out: Path) -> dict[tuple[str, str], str]:
    """By method and sample, each there once."""
    found = {(line["method"], line["sample_id"]): line["response"] for line in lines(out)}
    assert len(found) == len(lines(out))
    return found


class Meddling:
    """Does something once, when an actor has answered twice and is at work."""

    def __init__(self, out: Path, deed: Callable[[dict[str, Any]], None]) -> None:
        self.out, self.deed, self.done = out, deed, False

    def __call__(self, progress: Progress) -> None:
        found = lines(self.out)
        seen = [line for line in found if line["pid"] == found[-1]["pid"]]
        if not self.done and len({line["method"] for line in seen}) == 2:
            self.done = True
            self.deed(found[-1])


def test_the_answers_of_one_process(nodes: Any, pictures: Path, alone: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    out, both = tmp_path / "run", partial(engines.met, tmp_path / "met", engines.slow)
    found = spread(nodes, pictures, out, both, progress=told.append)
    assert answers(out) == answers(alone)
    assert found["results"] == rescore(alone, resamples=20)["results"]
    assert (told[-1].done, told[-1].total) == (342, 342)
    cluster = found["run"]["sessions"][0]["cluster"]
    assert cluster["actors"] == 2
    assert {line["node"] for line in lines(out)} == {node["node"] for node in cluster["nodes"]}
    assert len(cluster["nodes"]) == len({line["pid"] for line in lines(out)}) == 2
    assert all(node["versions"]["grounddecode"] and node["hardware"]["cores"] for node in cluster["nodes"])
    first = {line["pid"]: line["prompt"] for line in reversed(lines(out))}
    assert len({line["pid"] for line in lines(out) if line.get("warming_up")}) == len(first)
    # The same command in one process, and with another number of actors, has nothing left to answer.
    before = (out / "samples.jsonl").read_bytes()
    assert run(pictures, out, engines.Fake(), methods=METHODS, batch_size=4)["results"] == found["results"]
    spread(nodes, pictures, out, actors=1)
    assert (out / "samples.jsonl").read_bytes() == before


def test_pictures_go_along_where_the_actors_do_not_see_them(
    nodes: Any, pictures: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    spread(nodes, pictures.name, tmp_path, engines.elsewhere)
    assert answers(tmp_path) == answers(alone)


def test_an_actor_is_killed(nodes: Any, pictures: Path, alone: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(line: dict[str, Any]) -> None:
        os.kill(line["pid"], signal.SIGKILL)
        killed.append(line["pid"])

    found = spread(nodes, pictures, tmp_path, progress=Meddling(tmp_path, kill))
    assert len(killed) == 1
    assert answers(tmp_path) == answers(alone)
    assert any("a process was lost" in note for note in found["run"]["sessions"][0]["notes"])
    assert len({line["pid"] for line in lines(tmp_path)}) >= 2


def test_a_node_is_removed(nodes: Any, pictures: Path, alone: Path, tmp_path: Path) -> None:
    gone: list[str] = []

    def remove(line: dict[str, Any]) -> None:
        node = next(node for node in nodes.worker_nodes if node.node_id.startswith(line["node"]))
        nodes.remove_node(node, allow_graceful=False)
        gone.append(line["node"])

    try:
        spread(nodes, pictures, tmp_path, progress=Meddling(tmp_path, remove))
    finally:
        if gone:
            nodes.add_node(num_cpus=1, **SMALL)
    assert len(gone) == 1
    assert answers(tmp_path) == answers(alone)
    after = lines(tmp_path)[-1]["node"]
    assert after != gone[0]


def test_the_driver_is_killed_and_the_command_given_again(
    nodes: Any, pictures: Path, alone: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.evaluate.cluster.driver", str(pictures), str(tmp_path), nodes.address]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 600  # Ray's own processes run at a low priority: on a busy machine they take minutes
    while child.poll() is None and _count(tmp_path) < 30 and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    assert child.wait() == -signal.SIGKILL, child.stderr.read().decode() if child.stderr else ""
    there = answers(tmp_path)
    assert 30 <= len(there) < 342
    found = spread(nodes, pictures, tmp_path)
    assert {key: answers(tmp_path)[key] for key in there} == there
    assert answers(tmp_path) == answers(alone)
    assert len(found["run"]["sessions"]) == 2
    assert "seconds" not in found["run"]["sessions"][0]


def _count(out: Path) -> int:
    path = out / "samples.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_an_engine_that_raises_fails_samples_not_the_run(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    found = spread(nodes, pictures, tmp_path / "spread", engines.raising)
    whole = run(pictures, tmp_path / "alone", engines.Raises(), methods=METHODS, batch_size=4)
    assert found["run"]["n_failed"] == whole["run"]["n_failed"] == 57
    assert found["results"] == whole["results"]
    assert {line["image_id"] for line in lines(tmp_path / "spread") if line["status"] == "failed"} == {1}
    mended = spread(nodes, pictures, tmp_path / "spread", engines.fake)
    assert mended["run"]["n_failed"] == 0


def test_the_quicker_engine_does_not_end_a_row(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    """While one process is at the first batch, the other would fail on the whole second one."""
    both = partial(engines.met, tmp_path / "met", engines.hasty)
    more: dict[str, Any] = {"methods": METHODS, "benchmarks": ["pope"], "batch_size": 4}
    found = spread(nodes, pictures, tmp_path / "spread", both, **more)
    whole = run(pictures, tmp_path / "alone", engines.Raises(), **more)
    assert "refused" not in {**found["run"], **whole["run"]}
    assert found["run"]["n_failed"] == whole["run"]["n_failed"] == 54
    assert found["results"] == whole["results"]


def test_a_row_ends_where_it_ends_in_one_process(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    """Its first samples fail, in batches that go to two processes; later ones would not."""
    both = partial(engines.met, tmp_path / "met", engines.tender)
    more: dict[str, Any] = {"methods": ["locore", "greedy"], "benchmarks": ["pope"], "batch_size": 2}
    found = spread(nodes, pictures, tmp_path / "spread", both, **more)
    whole = run(pictures, tmp_path / "alone", engines.Tender(), **more)
    assert list(whole["run"]["refused"]) == ["locore"]
    assert found["run"]["refused"] == whole["run"]["refused"]
    assert answers(tmp_path / "spread") == answers(tmp_path / "alone")


def test_a_lost_batch_is_not_waited_for(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    """An engine whose batch may not begin before it takes it, though the new process is long in coming."""
    out = tmp_path / "run"
    both = partial(engines.met, tmp_path / "met", partial(engines.once, tmp_path / "met"))
    spread(nodes, pictures, out, both, model=str(out), methods=["greedy"])
    assert (tmp_path / "run.dead").exists()
    assert lines(out)[0]["pid"] in engines.first_two(tmp_path / "met")
    assert len(answers(out)) == 114


def test_a_batch_that_ends_every_process_is_given_up(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    found = spread(nodes, pictures, tmp_path, engines.deadly, methods=["greedy"], batch_size=1)
    failed = [line for line in lines(tmp_path) if line["status"] == "failed"]
    assert [(line["benchmark"], line["image_id"]) for line in failed] == [("chair", 1)]
    assert "was lost 3 times" in failed[0]["error"]
    assert found["run"]["n_answers"] == 113


def test_other_settings_are_refused(nodes: Any, pictures: Path, alone: Path, tmp_path: Path) -> None:
    spread(nodes, pictures, tmp_path, engines.fake, limit=2, methods=["greedy"])
    with pytest.raises(ValueError, match="batch_size 4, not 3"):
        spread(nodes, pictures, tmp_path, engines.fake, limit=2, methods=["greedy"], batch_size=3)
    with pytest.raises(ValueError, match="dtype float32, not bfloat16"):
        spread(nodes, pictures, tmp_path, engines.half, limit=3, methods=["greedy"])


def test_a_run_grows_by_rows_that_the_command_does_not_name(
    nodes: Any, pictures: Path, alone: Path, tmp_path: Path
) -> None:
    """A further benchmark is answered by the methods that are there, too: every process has to know them."""
    spread(nodes, pictures, tmp_path, engines.fake, methods=["greedy", "locore"], benchmarks=["pope"])
    grown = spread(nodes, pictures, tmp_path, engines.fake, methods=["sample"], benchmarks=["chair"])
    assert grown["run"]["n_failed"] == 0
    assert answers(tmp_path) == answers(alone)


def test_engines_that_are_unlike_are_refused(
    nodes: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    either = r"bfloat16, node \w+ float32|float32, node \w+ bfloat16"  # whichever node answers first is the measure
    both = partial(engines.met, tmp_path / "met", engines.unlike)
    with pytest.raises(ValueError, match=rf"node \w+ has dtype ({either}): put the same on every node"):
        spread(nodes, pictures, tmp_path / "run", both, model=str(tmp_path / "mark"))


def test_a_model_that_is_not_there_is_one_sentence(nodes: Any, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no engine could be started on the cluster: there is no model 'fake' here"):
        spread(nodes, pictures, tmp_path, engines.missing)
    assert not (tmp_path / "run.json").exists()
