"""The bench with an engine that needs no model: what it writes, resumes, refuses and survives."""

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
from typing import Any

import pytest
from PIL import Image

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate import lemmas, tagger
from grounddecode.evaluate.answering import PATIENCE
from grounddecode.evaluate.runner import Progress, bench, merge, rescore
from grounddecode.evaluate.store import RunFolder
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine, answer, write_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"))


def run(data: Path, out: Path, engine: Any = None, **more: Any) -> dict[str, Any]:
    options = {"methods": ["greedy", "sample"], "resamples": 20, **more}
    return bench("fake", out, data=data, opened=engine or FakeEngine(), **options)


def test_numbers_are_those_of_the_answers(data: Path, tmp_path: Path) -> None:
    # Six pictures with three of six objects; the engine sees every object rightly, and a bowl everywhere. A bowl is in
    # the pictures whose objects include number 5: pictures 2, 4 and 5.
    metrics = run(data, tmp_path / "run")
    greedy = metrics["results"]["greedy"]
    assert list(metrics["results"]) == ["greedy", "sample"]
    assert list(greedy["pope"]) == ["random", "popular", "adversarial"]
    for split in greedy["pope"].values():
        # 18 questions have the answer yes; each picture without a bowl is asked for one of three absent objects thrice.
        assert {key: split[key] for key in ("n", "tp", "fp", "tn", "fn")} == {
            "n": 36,
            "tp": 18,
            "fp": 3,
            "tn": 15,
            "fn": 0,
        }
        assert split["accuracy"] == 33 / 36
        assert split["yes_ratio"] == 21 / 36
        assert split["n_failed"] == 0
    chair = greedy["chair"]
    assert chair["n"] == 6
    assert chair["n_mentions"] == 18
    assert chair["chair_s"] == 0.5
    assert chair["chair_i"] == 3 / 18
    # Two objects and a bowl are named; where the bowl is one of the two there are two true ones, else two or three.
    assert chair["recall"] == pytest.approx(13 / 18)
    assert chair["words"] == 11
    assert metrics["run"]["n_failed"] == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_a_line_says_what_was_asked_and_answered(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * (3 * 36 + 6)
    for line in lines:
        assert {"sample_id", "benchmark", "method", "image_id", "prompt", "response"} <= line.keys()
        assert line["status"] == "ok"
        assert {"n_tokens", "seconds", "trace", "batch", "image", "split"} <= line.keys()
    question = next(line for line in lines if line["sample_id"] == "pope-random/1")
    assert question["label"] == "yes"
    assert question["prompt"] == "Is there a dog in the image?"
    assert question["response"] == "Yes."
    caption = next(line for line in lines if line["sample_id"] == "chair/2")
    assert caption["truth"] == ["car", "chair", "bowl"]


def test_a_question_that_two_splits_share_is_asked_once(data: Path, tmp_path: Path) -> None:
    engine = FakeEngine()
    metrics = run(data, tmp_path, engine, methods=["greedy"], benchmarks=["pope"])
    asked = [name for call in engine.calls for name in call]
    assert len(set(asked)) == len(asked) == 18 + 18  # each present object, and every absent one, of six pictures
    records = RunFolder(tmp_path).records()
    copies = [record for record in records if "same_as" in record]
    assert len(records) == 108
    assert len(copies) == 108 - 36
    assert {record["same_as"] for record in copies} <= set(asked)
    assert metrics["results"]["greedy"]["cost"]["seconds"] == 36 * 0.5
    assert metrics["results"]["greedy"]["cost"]["tokens_per_second"] == 10


def test_prompts_of_similar_length_stand_together(data: Path, tmp_path: Path) -> None:
    engine = FakeEngine()
    run(data, tmp_path, engine, methods=["greedy"], batch_size=5)
    sizes = [len(prompt) for prompt in engine.prompts]
    assert sizes[:36] == sorted(sizes[:36])
    assert [len(call) for call in engine.calls] == [5] * 7 + [1] + [5, 1]


def test_progress_counts_answers_of_all_methods(data: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    run(data, tmp_path, progress=told.append)
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert (told[-1].done, told[-1].total, told[-1].failed) == (228, 228, 0)
    assert {one.method for one in told} == {"greedy", "sample"}
    assert {one.benchmark for one in told} == {"pope", "chair"}


def test_the_limit_holds_for_each_split_and_is_a_prefix(data: Path, tmp_path: Path) -> None:
    few = run(data, tmp_path / "few", limit=4)
    assert few["results"]["greedy"]["pope"]["popular"]["n"] == 4
    assert few["results"]["greedy"]["chair"]["n"] == 4
    run(data, tmp_path / "all")
    asked = {(r["sample_id"], r["prompt"]) for r in RunFolder(tmp_path / "all").records()}
    assert {(r["sample_id"], r["prompt"]) for r in RunFolder(tmp_path / "few").records()} < asked


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_the_same_call_asks_only_what_is_missing(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    run(data, tmp_path / "part")
    lines = (tmp_path / "part" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "part" / "samples.jsonl").write_bytes(b"".join(lines[:100]) + lines[100][:30])
    engine = FakeEngine()
    again = run(data, tmp_path / "part", engine)
    known = {(json.loads(line)["method"], json.loads(line)["sample_id"]) for line in lines[:100]}
    asked = [name for call in engine.calls for name in call]
    records = RunFolder(tmp_path / "part").records()
    assert len(records) == 228
    assert 0 < len(asked) < 84
    assert not [name for name in asked if ("greedy", name) in known and ("sample", name) in known]
    assert again["results"] == whole["results"]
    assert [len(session) > 0 for session in again["run"]["sessions"]] == [True, True]


def test_a_finished_run_needs_no_engine(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path)
    engine = FakeEngine()
    assert run(data, tmp_path, engine) == first
    assert engine.calls == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": 3}, "limit unset, not 3"),
        ({"seed": 1}, "seed 0, not 1"),
        ({"batch_size": 4}, "batch_size 8, not 4"),
        ({"methods": ["greedy"]}, "methods greedy,sample, not greedy"),
        ({"max_new_tokens": 20}, "max_new_tokens unset, not 20"),
        ({"benchmarks": ["chair"]}, "benchmarks chair,pope, not chair"),
        ({"engine_options": {"dtype": "float16"}}, "engine_options"),
    ],
)
def test_a_folder_of_other_settings_is_refused(data: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    run(data, tmp_path)
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(ValueError, match=rf"holds a run with .*{said}.* another --out") as error:
        run(data, tmp_path, **change)
    assert "questions" not in str(error.value)  # a checksum that differs for the same reason
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_an_engine_that_differs_is_refused(data: Path, tmp_path: Path) -> None:
    class Half(FakeEngine):
        def describe(self) -> dict[str, object]:
            return {**super().describe(), "dtype": "float16"}

    run(data, tmp_path)
    lines = (tmp_path / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ValueError, match="dtype float32, not float16"):
        run(data, tmp_path, Half())
    run(data, tmp_path, FakeEngine(device="cpu"))  # another device is the same run


def test_folders_have_the_flavour_of_published_tables_where_its_data_are(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tagger, "available", lambda: False)
    assert run(data, tmp_path)["results"]["greedy"]["chair"]["flavour"] == "pattern"
    monkeypatch.setattr(tagger, "available", lambda: True)
    monkeypatch.setattr(tagger, "tagger", lambda: None)
    monkeypatch.setattr(lemmas, "wordnet_forms", list)  # what it makes of tokens is tested elsewhere
    metrics = run(data, tmp_path)
    assert metrics["results"]["greedy"]["chair"]["flavour"] == "wordnet-words/pattern-gt"
    assert metrics["run"]["scoring"]["chair_flavour"] == "wordnet-words/pattern-gt"


def test_the_first_batch_of_every_start_is_marked(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, batch_size=4)
    records = RunFolder(tmp_path).records()
    for method in ("greedy", "sample"):
        asked = [r for r in records if r["method"] == method and "same_as" not in r]
        assert [r.get("warming_up", False) for r in asked] == [True] * 4 + [False] * (len(asked) - 4)


def test_settings_of_scoring_may_change(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path)
    engine = FakeEngine()
    metrics = run(data, tmp_path, engine, pope_rule="vcd", chair_flavour="fixed")
    assert engine.calls == []
    assert metrics["results"]["greedy"]["pope"]["random"]["rule"] == "vcd"
    assert metrics["results"]["greedy"]["chair"]["flavour"] == "fixed"
    assert metrics["run"]["scoring"]["pope_rule"] == "vcd"


def test_answers_without_a_run_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"sample_id": "a", "method": "greedy"}\n')
    with pytest.raises(ValueError, match=r"holds answers but no run\.json"):
        run(data, tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ["avk"]}, "did you mean 'avc'"),
        ({"benchmarks": ["pop"]}, "did you mean 'pope'"),
        ({"benchmarks": []}, "no benchmark was given"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"limit": 0}, "the limit is 0"),
        ({"shard": "3/2"}, "write i/n"),
        ({"pope_rule": "strict"}, "POPE has no rule 'strict'"),
        ({"chair_flavour": "x"}, "CHAIR has no flavour 'x'"),
        ({"resamples": 0}, "resamples is 0"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    data: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        run(data, tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


def test_bad_data_folders_are_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        run(tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(ValueError, match="is missing: see `grounddecode data check pope"):
        run(tmp_path, tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean 'hf'"):
        bench("lab", tmp_path / "run", engine="fh")


# -- failures ----------------------------------------------------------------------------------------------------------


class Flaky(FakeEngine):
    """Fails on captions of the images in `broken`, alone or in a batch."""

    def __init__(self, broken: Sequence[int]) -> None:
        super().__init__()
        self.broken = set(broken)

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        for request in requests:
            (image,) = request.images
            assert isinstance(image, Image.Image)
            if request.prompt.startswith("Describe") and image.getpixel((0, 0))[0] in self.broken:
                self.calls.append([one.sample_id for one in requests])
                raise RuntimeError(f"no luck\nwith image {image.getpixel((0, 0))[0]}")
        return super().generate(requests, decoding, methods)


def test_a_failed_sample_is_no_empty_answer_and_is_asked_again(data: Path, tmp_path: Path) -> None:
    metrics = run(data, tmp_path, Flaky([2]))
    chair = metrics["results"]["greedy"]["chair"]
    assert (chair["n"], chair["n_failed"], metrics["run"]["n_failed"]) == (5, 1, 2)
    assert chair["chair_s"] == 3 / 5  # picture 2 has a bowl
    assert metrics["results"]["greedy"]["pope"]["random"]["n_failed"] == 0
    failed = [record for record in RunFolder(tmp_path).records() if record["status"] == "failed"]
    assert [(record["sample_id"], record["response"]) for record in failed] == [("chair/2", None)] * 2
    assert failed[0]["error"] == "RuntimeError: no luck with image 2"
    engine = FakeEngine()
    mended = run(data, tmp_path, engine)
    assert engine.calls == [["chair/2"], ["chair/2"]]
    assert mended["run"]["n_failed"] == 0
    assert mended["results"]["greedy"]["chair"]["n"] == 6
    assert mended["results"]["greedy"]["chair"]["chair_s"] == 0.5


def test_differences_rest_on_what_both_answered(data: Path, tmp_path: Path) -> None:
    class OnlyGreedyFails(Flaky):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            self.broken = set() if decoding.do_sample else {2}
            return super().generate(requests, decoding, methods)

    metrics = run(data, tmp_path, OnlyGreedyFails([2]))
    sampled = metrics["results"]["sample"]["chair"]
    assert sampled["n"] == 6
    assert sampled["chair_s"] == 0.5
    assert metrics["results"]["greedy"]["chair"]["chair_s"] == 0.6
    # Word for word the same up to the last word, on the five pictures that both have.
    assert sampled["vs_greedy"]["chair_s"] == {"difference": 0.0, "ci": [0.0, 0.0], "verdict": ""}
    assert sampled["vs_greedy"]["words"]["difference"] == pytest.approx(1.0)
    assert sampled["control"]["n_captions"] == 5


def test_a_broken_picture_fails_alone(data: Path, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data")
    (folder / "images" / "X_003.png").write_bytes(b"not a picture")
    metrics = run(folder, tmp_path / "run", benchmarks=["chair"])
    assert metrics["results"]["greedy"]["chair"]["n_failed"] == 1
    failed = [record for record in RunFolder(tmp_path / "run").records() if record["status"] == "failed"]
    assert {record["image_id"] for record in failed} == {3}
    assert "X_003.png is no readable image" in failed[0]["error"]


def test_a_method_that_can_answer_nothing_stops_the_run(data: Path, tmp_path: Path) -> None:
    class Refuses(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            if decoding.do_sample:
                self.calls.append([one.sample_id for one in requests])
                raise ValueError("this model cannot sample")
            return super().generate(requests, decoding, methods)

    engine = Refuses()
    with pytest.raises(
        RuntimeError, match=rf"sample could answer none of the first {PATIENCE} samples: .*cannot sample"
    ):
        run(data, tmp_path, engine)
    assert len([call for call in engine.calls if len(call) == 1]) == PATIENCE
    # Whatever stopped it: the run goes on when it is mended.
    assert run(data, tmp_path)["run"]["n_failed"] == 0


def test_a_run_too_short_for_that_stops_too(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="greedy could answer no sample: RuntimeError: no luck with image"):
        run(data, tmp_path, Flaky(range(6)), benchmarks=["chair"], limit=2, methods=["greedy"])


class Small(FakeEngine):
    """Has room for so many requests at once, half as many when sampling."""

    def __init__(self, room: int, kind: type[Exception]) -> None:
        super().__init__()
        self.room = room
        self.kind = kind

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        if len(requests) > self.room // (2 if decoding.do_sample else 1):
            self.calls.append([one.sample_id for one in requests])
            raise self.kind("CUDA out of memory. Tried to allocate 2 GiB")
        return super().generate(requests, decoding, methods)


class OutOfMemoryError(Exception):
    """Known by its name, as torch's is."""


@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, OutOfMemoryError])
def test_out_of_memory_halves_the_batch_and_goes_on(data: Path, tmp_path: Path, kind: type[Exception]) -> None:
    engine = Small(4, kind)
    told: list[Progress] = []
    metrics = run(data, tmp_path / "small", engine, batch_size=16, progress=told.append)
    notes = [one.note for one in told if one.note]
    assert notes == [
        "out of memory: batches of greedy are halved to 8",
        "out of memory: batches of greedy are halved to 4",
        "out of memory: batches of sample are halved to 8",
        "out of memory: batches of sample are halved to 4",
        "out of memory: batches of sample are halved to 2",
    ]
    assert metrics["run"]["sessions"][0]["notes"] == notes
    assert metrics["run"]["n_failed"] == 0
    assert metrics["results"] == run(data, tmp_path / "roomy", batch_size=16)["results"]
    # Only the first batch of each method is too large; the later ones start with what fits.
    assert len([call for call in engine.calls if len(call) > 4]) == 2 + 2


def test_out_of_memory_with_one_sample_is_a_failure(data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        run(data, tmp_path, Small(0, RuntimeError), benchmarks=["chair"], methods=["greedy"], batch_size=2)


def test_an_engine_that_answers_something_else_is_found_out(data: Path, tmp_path: Path) -> None:
    class Turned(FakeEngine):
        def generate(
            self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
        ) -> list[Response]:
            found = super().generate(requests, decoding, methods)
            return found[::-1] if len(found) > 1 else [Response(sample_id="x", text="", n_tokens=0, seconds=0)]

    with pytest.raises(RuntimeError, match="answered other samples than it was asked"):
        run(data, tmp_path, Turned())


# -- killing -----------------------------------------------------------------------------------------------------------


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
