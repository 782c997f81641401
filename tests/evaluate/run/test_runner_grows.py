"""A run that is extended: it keeps what it has, and answers what is new as a larger run would have."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import FrozenInstanceError, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.run.runner import Recipe, bench, rescore
from grounddecode.evaluate.run.task import task_of
from grounddecode.method import Method
from tests.evaluate.fake import FakeEngine, run


def asked(engine: FakeEngine) -> list[str]:
    return [name for call in engine.calls for name in call]


def test_further_methods_are_added(data: Path, tmp_path: Path) -> None:
    both = run(data, tmp_path / "both", methods=["greedy", "locore"])
    run(data, tmp_path / "run", methods=["greedy"])
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    engine = FakeEngine()
    grown = run(data, tmp_path / "run", engine, methods=["locore"])
    assert grown["results"] == both["results"]
    assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(before)
    assert len(asked(engine)) == 1 + 36 + 6  # the probe, and what one method is asked
    assert grown["run"]["settings"] == both["run"]["settings"]
    engine = FakeEngine()
    assert run(data, tmp_path / "run", engine, methods=["greedy"]) == grown  # naming fewer takes nothing away
    assert engine.calls == []


def test_a_larger_limit_adds_samples(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole", batch_size=4)
    run(data, tmp_path / "run", limit=2, batch_size=4)
    run(data, tmp_path / "run", limit=4, batch_size=4)
    engine = FakeEngine()
    grown = run(data, tmp_path / "run", engine, batch_size=4)
    assert grown["results"].keys() == whole["results"].keys()
    for method in whole["results"]:
        for benchmark in ("pope", "chair"):
            assert grown["results"][method][benchmark] == whole["results"][method][benchmark]
    assert len(RunFolder(tmp_path / "run").records()) == 228
    assert [stage["limit"] for stage in grown["run"]["stages"]] == [2, 4]
    lines = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert len({(json.loads(line)["method"], json.loads(line)["sample_id"]) for line in lines}) == len(lines)
    with pytest.raises(ValueError, match="limit unset, not 5"):
        run(data, tmp_path / "run", limit=5, batch_size=4)


def test_a_further_benchmark_is_added(data: Path, tmp_path: Path) -> None:
    whole = run(data, tmp_path / "whole")
    run(data, tmp_path / "run", benchmarks=["pope"])
    grown = run(data, tmp_path / "run", benchmarks=["chair"])
    assert grown["results"]["greedy"]["chair"] == whole["results"]["greedy"]["chair"]
    assert grown["results"]["greedy"]["pope"] == whole["results"]["greedy"]["pope"]


def test_other_data_are_no_larger_run(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", limit=2)
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    stored["settings"]["questions"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="holds a run with questions 0000"):
        run(data, tmp_path / "run", limit=4)


def test_a_shard_whose_pictures_would_move_does_not_grow(data: Path, tmp_path: Path) -> None:
    # Six questions are about picture 0: with eight, picture 1 comes second, where a captioned picture stood.
    run(data, tmp_path / "run", shard="2/2", limit=3)
    with pytest.raises(ValueError, match="holds shard 2/2 of a smaller run, whose pictures other shards"):
        run(data, tmp_path / "run", shard="2/2", limit=8)


def test_a_method_of_the_same_name_keeps_its_settings(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, methods=["greedy", "locore"])
    stored = json.loads((tmp_path / "run.json").read_text())
    stored["settings"]["plans"]["locore"]["methods"][0]["beta"] = 9.0
    (tmp_path / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="holds a run with plans"):
        run(data, tmp_path, methods=["greedy"])


@pytest.mark.parametrize("name", ["device", "timeout", "retries", "concurrency", "backoff", "api_key"])
def test_what_does_not_define_a_run_may_differ(data: Path, tmp_path: Path, name: str) -> None:
    first = run(data, tmp_path, limit=2, engine_options={name: "1", "dtype": "float32"})
    again = run(data, tmp_path, limit=2, engine_options={name: "2", "dtype": "float32"})
    assert again == first
    assert first["run"]["settings"]["engine_options"] == {"dtype": "float32"}
    with pytest.raises(ValueError, match="engine_options"):
        run(data, tmp_path, limit=2, engine_options={"dtype": "float16"})


def test_folders_that_kept_such_options_go_on(data: Path, tmp_path: Path) -> None:
    first = run(data, tmp_path, limit=2)
    stored = json.loads((tmp_path / "run.json").read_text())
    stored["settings"]["engine_options"] = {"timeout": "5"}
    (tmp_path / "run.json").write_text(json.dumps(stored))
    assert run(data, tmp_path, limit=2, engine_options={"timeout": "60"})["results"] == first["results"]


class Drawing(FakeEngine):
    """Its samples depend on what stands beside them in a batch, as torch's do."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        found = super().generate(requests, decoding, methods)
        beside = " ".join(request.sample_id for request in requests) if decoding.do_sample else ""
        return [replace(one, text=f"{one.text} {beside}") for one in found]


@pytest.mark.parametrize("kept", [1, 7, 40, 113, 150, 227])
def test_a_part_of_a_batch_draws_what_the_whole_batch_drew(data: Path, tmp_path: Path, kept: int) -> None:
    run(data, tmp_path / "whole", Drawing(), batch_size=4)
    whole = {(r["method"], r["sample_id"]): r["response"] for r in RunFolder(tmp_path / "whole").records()}
    run(data, tmp_path / "run", Drawing(), batch_size=4)
    samples = tmp_path / "run" / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:kept]))
    run(data, tmp_path / "run", Drawing(), batch_size=4)
    lines = [json.loads(line) for line in samples.read_bytes().splitlines()]
    assert len(lines) == 228  # none twice, though whole batches were asked
    assert {(r["method"], r["sample_id"]): r["response"] for r in lines} == whole


def test_answers_keep_the_ground_truth_of_the_first_start(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path, methods=["greedy"], chair_flavour="pattern")
    grown = run(data, tmp_path, methods=["sample"], chair_flavour="fixed")
    assert grown["run"]["chair_flavour"] == "pattern"
    assert grown["results"]["sample"]["chair"]["flavour"] == "fixed"
    truths = {(r["sample_id"], str(r["truth"])) for r in RunFolder(tmp_path).records() if r["benchmark"] == "chair"}
    assert len(truths) == 6
    assert rescore(tmp_path) == grown


# -- the recipe --------------------------------------------------------------------------------------------------------


def test_a_recipe_is_one_frozen_object_that_pickles() -> None:
    recipe = Recipe(model="m", methods=["greedy", "avc"], engine_options={"dtype": "float32"})
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    assert recipe.methods == ("greedy", "avc")
    with pytest.raises(FrozenInstanceError):
        recipe.seed = 1
    assert len(signature(bench).parameters) <= 7
    assert Recipe(model="m", methods="greedy,avc:alpha=1,beta=2").methods == ("greedy", "avc:alpha=1,beta=2")


def test_run_json_settings_are_the_recipes() -> None:
    recipe = Recipe(model="lab", benchmarks=("chair",), limit=2)
    settings = task_of(recipe, "run", None).settings
    assert {name for name in settings if hasattr(recipe, name)} >= {"model", "methods", "limit", "seed", "batch_size"}
    assert settings | recipe.settings() == settings


@pytest.mark.parametrize("name", [field.name for field in fields(Recipe)])
@pytest.mark.parametrize(
    "value", [1.5, object(), [["a"]], {1: 2}, b"x"], ids=["float", "object", "lists", "keys", "bytes"]
)
def test_a_field_of_another_type_is_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*give") as error:
        Recipe(**{"model": "m", name: value})
    assert "\n" not in str(error.value)
