"""The bench with an engine that needs no model: what it writes, resumes, refuses and survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.language import tagger
from grounddecode.evaluate.run.runner import Progress, Recipe, bench
from grounddecode.evaluate.scoring import lemmas
from tests.evaluate.fake import FakeEngine, run

ROOT = Path(__file__).parents[3]


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
        ({"max_new_tokens": 20}, "max_new_tokens unset, not 20"),
        ({"shard": "1/2"}, "shard unset, not 1/2"),
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
    with pytest.raises(ValueError, match=r"holds a samples\.jsonl but no run\.json"):
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
        bench(Recipe(model="lab", engine="fh"), tmp_path / "run")
