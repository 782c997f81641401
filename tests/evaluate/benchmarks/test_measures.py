"""AMBER's and MME's numbers in a run: the counts give the scorers' numbers, and the bench runs them end to end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grounddecode.engines.base import Decoding, Request, Response
from grounddecode.evaluate.benchmarks.base import Wanted
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import load, measure_of
from grounddecode.evaluate.intervals import point
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.results.results import results, score
from grounddecode.evaluate.run.runner import Recipe, bench, rescore
from grounddecode.method import Method
from tests.evaluate.benchmarks.test_folders import write_mme
from tests.evaluate.fake import FakeEngine


def described(number: int, text: str, truth: list[str], hallu: list[str]) -> dict[str, Any]:
    return {
        "sample_id": f"amber-generative/{number}",
        "benchmark": "amber",
        "split": "generative",
        "image_id": number,
        "method": "greedy",
        "status": "ok",
        "response": text,
        "n_tokens": 1,
        "seconds": 1.0,
        "type": "generative",
        "truth": truth,
        "hallu": hallu,
    }


def asked(number: int, said: str, truth: str, kind: str = "discriminative-attribute-state") -> dict[str, Any]:
    return {
        "sample_id": f"amber-discriminative/{number}",
        "benchmark": "amber",
        "split": "discriminative",
        "method": "greedy",
        "status": "ok",
        "response": said,
        "n_tokens": 1,
        "seconds": 1.0,
        "image_id": number // 3,
        "type": kind,
        "truth": truth,
    }


def test_ambers_descriptions_by_hand() -> None:
    # The lab's list: a puppy is a dog, the last word of a name stands for it.
    records = [
        described(
            1, "A dog and a puppy beside a fire hydrant. A car.", ["dog", "fire hydrant", "bench"], ["car", "bicycle"]
        ),
        described(2, "There is a bench.", ["bench"], ["dog"]),
    ]
    measure = measure_of("amber", "generative")
    found = score(measure, records, Scoring())
    # Nouns: dog puppy hydrant car bench. Invented: car. Covered: dog, hydrant, bench of 4. Expected: car of 3.
    assert {key: found.numbers[key] for key in ("chair", "cover", "hal", "cog", "n_nouns")} == {
        "chair": 20.0, "cover": 75.0, "hal": 50.0, "cog": 33.3, "n_nouns": 5,
    }  # fmt: skip
    ratios = point(found.counts(), measure.ratios)
    assert ratios == pytest.approx({"chair": 20, "cover": 75, "hal": 50, "cog": 100 / 3, "words": 7.5})
    assert found.numbers["similarity"] == "exact"


def test_ambers_questions_and_its_score_by_hand() -> None:
    answers = [("No.", "no"), ("no", "no"), ("Yes, it is.", "no"), ("Yes", "yes"), ("No", "yes"), ("Perhaps", "no")]
    records = [asked(at, said, truth) for at, (said, truth) in enumerate(answers)]
    measure = measure_of("amber", "discriminative")
    found = score(measure, records, Scoring())
    # Right: 3 of 6. "No" said thrice, twice rightly; four truths are no.
    assert found.numbers["accuracy"] == 50.0
    assert found.numbers["precision"] == 66.6  # 2 of 3.001: AMBER's denominators start at 0.001
    assert found.numbers["recall"] == 50.0
    assert found.numbers["dimensions"]["attribute"]["accuracy"] == 50.0
    ratios = point(found.counts(), measure.ratios)
    assert ratios == pytest.approx(
        {"accuracy": 50, "precision": 200 / 3, "recall": 50, "f1": 400 / 7, "yes_ratio": 100 / 3}
    )
    shown = results([*records, described(1, "A dog.", ["dog"], [])], Scoring(resamples=20))["greedy"]["amber"]
    assert shown["amber_score"] == (100 - 0.0 + found.numbers["f1"]) / 2
    assert shown["discriminative"]["ci"]["accuracy"][0] <= 50 <= shown["discriminative"]["ci"]["accuracy"][1]
    assert "amber_score" not in results(records, Scoring(resamples=20))["greedy"]["amber"]


def mme_record(image: int, place: int, said: str, label: str, status: str = "ok") -> dict[str, Any]:
    return {
        "sample_id": f"mme-count/{2 * image + place}",
        "benchmark": "mme",
        "split": "count",
        "image_id": image,
        "method": "greedy",
        "status": status,
        "response": said,
        "label": label,
        "n_tokens": 1,
        "seconds": 1.0,
    }


def test_mme_by_hand() -> None:
    said = [("Yes.", "no"), ("Yes", "no."), ("No", "No"), ("yes", "maybe")]
    records = [
        mme_record(image, place, text, label)
        for image, pair in enumerate(said)
        for place, (text, label) in enumerate(zip(pair, ("yes", "no"), strict=True))
    ]
    measure = measure_of("mme", "count")
    found = score(measure, records[::-1], Scoring())
    # Pictures 0 and 1 have both right, 2 the second one, 3 the first one.
    assert (found.numbers["accuracy"], found.numbers["accuracy_plus"], found.numbers["score"]) == (0.75, 0.5, 125.0)
    ratios = point(found.counts(), measure.ratios)
    assert ratios == pytest.approx({"score": 125, "accuracy": 0.75, "accuracy_plus": 0.5, "yes_ratio": 3 / 8})
    # A picture of which one question failed counts in nothing.
    failed = [*records[:-1], {**records[-1], "status": "failed", "response": None}]
    rest = score(measure, failed, Scoring())
    assert (rest.numbers["accuracy"], rest.numbers["accuracy_plus"], rest.n_failed) == (5 / 6, 2 / 3, 1)
    assert point(rest.counts(), measure.ratios)["accuracy"] == pytest.approx(5 / 6)


class Yes(FakeEngine):
    """Says Yes to every question."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, methods: Sequence[Method] = ()
    ) -> list[Response]:
        return [Response(sample_id=r.sample_id, text="Yes", n_tokens=1, seconds=0.1) for r in requests]


def test_mme_runs_end_to_end(tmp_path: Path) -> None:
    root = write_mme(tmp_path / "data")
    shown = bench(
        Recipe(model="fake", data=str(root), benchmarks=("mme",), resamples=20), tmp_path / "run", opened=Yes()
    )
    tasks = shown["results"]["greedy"]["mme"]
    assert list(tasks) == ["existence", "count", "position", "color", "total"]
    assert (tasks["count"]["score"], tasks["total"]) == (50.0, 200.0)
    assert "MME existence" in compare([tmp_path / "run"]).text()


def test_the_labs_amber_runs_end_to_end(tmp_path: Path) -> None:
    samples = load(["amber"], Wanted(limit=40))
    assert [sample.split for sample in samples] == ["generative"] * 40 + ["discriminative"] * 40
    kinds = {sample.facts["type"] for sample in samples}
    assert kinds == {"generative", "discriminative-hallucination", "discriminative-attribute-state", "relation"}
    for sample in samples:
        if sample.facts["type"] == "discriminative-hallucination":
            assert sample.facts["truth"] == "no"
        if sample.split == "generative":
            assert not set(sample.facts["truth"]) & set(sample.facts["hallu"])
    recipe = Recipe(model="fake", benchmarks=("amber",), limit=40, resamples=20)
    shown = bench(recipe, tmp_path / "run", opened=Yes())
    amber = shown["results"]["greedy"]["amber"]
    truths = [sample.facts["truth"] for sample in samples[40:]]
    assert amber["discriminative"]["accuracy"] == round(100 * truths.count("yes") / 40, 1)
    assert amber["generative"]["n_nouns"] == 0
    assert rescore(tmp_path / "run") == shown
    assert "AMBER discriminative" in compare([tmp_path / "run"]).markdown()


def test_counts_give_the_scorers_numbers_for_random_descriptions() -> None:
    rng = np.random.default_rng(0)
    words = ["dog", "puppy", "car", "bench", "kite", "man", "oven", "stove", "tree"]
    things = ["dog", "car", "bench", "kite", "person", "oven"]
    records = []
    for at in range(60):
        chosen = rng.permutation(things).tolist()
        text = " and ".join(f"a {words[place]}" for place in rng.integers(len(words), size=6))
        records.append(described(at, f"There is {text}.", chosen[:3], chosen[3:5]))
    measure = measure_of("amber", "generative")
    found = score(measure, records, Scoring())
    ratios = point(found.counts(), measure.ratios)
    for key in ("chair", "cover", "hal", "cog"):
        assert ratios[key] == pytest.approx(found.numbers[key], abs=0.06), key
