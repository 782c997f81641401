"""What the list of samples finds wrong in an answer: what the measure of its benchmark counts, told by hand here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grounddecode.evaluate.benchmarks.base import Describes
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import PARTS
from grounddecode.report.runs import Runs
from grounddecode.report.samples import listed, telling

#: Of AMBER's own relation.json, the words of its second picture: CHAIR would read a ship as a boat, a man as a person.
RELATION = {
    "sky": [],
    "man": ["person", "people", "individual", "boy"],
    "ship": ["boat", "vessel", "sailing", "vehicle"],
    "lake": ["water", "sea", "river"],
    "bird": [],
    "dog": ["puppy"],
}


def amber_words(root: Path) -> Scoring:
    (root / "amber").mkdir()
    (root / "amber" / "relation.json").write_text(json.dumps(RELATION))
    (root / "amber" / "safe_words.txt").write_text("orange\nsnack")
    return Scoring(data=str(root))


def record(part: str, said: str, method: str = "greedy", number: int = 1, **facts: Any) -> dict[str, Any]:
    benchmark, _, split = part.partition(" ")
    return {
        "sample_id": f"{benchmark}-{split}/{number}", "benchmark": benchmark, "split": split, "image_id": 1,
        "image": "1.jpg", "prompt": "?", "method": method, "status": "ok", "response": said, **facts,
    }  # fmt: skip


def samples_of(records: Sequence[dict[str, Any]], scoring: Scoring | None = None) -> list[dict[str, Any]]:
    return listed(Runs((), (), tuple(records), {}, {}, scoring=scoring or Scoring()))[0]


def described(said: str, method: str = "greedy", number: int = 1) -> dict[str, Any]:
    truth = ["sky", "man", "ship", "ship", "lake"]
    facts = {"type": "generative", "truth": truth, "hallu": ["bird"]}
    return record("amber generative", said, method, number, **facts)


def test_ambers_descriptions_invent_what_amber_counts(tmp_path: Path) -> None:
    said = "A man stands near a ship on a lake."
    records = [described(said), described(said + " A dog and a puppy watch a bird, then the dog sleeps.", "avc")]
    (sample,) = samples_of(records, amber_words(tmp_path))
    assert sample["answers"]["greedy"]["errors"] == []
    assert sample["answers"]["avc"]["errors"] == ["dog", "puppy", "bird"]
    # CHAIR's words are not AMBER's: nothing is underlined by them.
    assert [answer["marks"] for answer in sample["answers"].values()] == [[], []]
    assert sample["truth"] == ["sky", "man", "ship", "lake"]


def test_samples_on_which_only_chairs_words_differ_are_not_picked_first(tmp_path: Path) -> None:
    alike = [described("A man on a ship.", "greedy", 1), described("A lake.", "avc", 1)]
    unlike = [described("A lake.", "greedy", 2), described("A bird on a lake.", "avc", 2)]
    samples = samples_of([*alike, *unlike], amber_words(tmp_path))
    assert [sample["id"] for sample in telling(samples)] == ["amber-generative/2", "amber-generative/1"]


@pytest.mark.parametrize(
    ("part", "said", "facts", "wrong"),
    [
        ("pope random", "Yes.", {"label": "yes"}, ["", "wrong"]),
        ("r-bench ", "No", {"label": "no"}, ["", "wrong"]),
        ("dash-b ", "yes", {"label": "yes", "object": "dog"}, ["", "wrong"]),
        ("repope random", "No, there is not.", {"label": "no"}, ["", "wrong"]),
        ("amber discriminative", "Yes, it is.", {"type": "relation", "truth": "yes"}, ["", "wrong"]),
        ("amber discriminative", "No.", {"type": "relation", "truth": "no"}, ["", "wrong"]),
    ],
)
def test_answers_to_questions_are_right_or_wrong(part: str, said: str, facts: dict[str, str], wrong: list[str]) -> None:
    other = "Yes." if said.startswith("No") else "No."
    (sample,) = samples_of([record(part, said, **facts), record(part, other, "avc", **facts)])
    assert [answer["errors"] for answer in sample["answers"].values()] == [[one] if one else [] for one in wrong]
    assert (sample["truth"], sample["label"]) == (None, facts.get("label", facts.get("truth")))


def test_what_a_benchmark_leaves_out_is_neither_right_nor_wrong() -> None:
    records = [record("repope random", "Perhaps.", label="yes"), record("repope random", "Yes.", "avc", label="yes")]
    (sample,) = samples_of(records)
    assert [answer["errors"] for answer in sample["answers"].values()] == [None, []]
    (sample,) = samples_of([record("dash-b ", "Perhaps.", label="yes", object="dog")])
    assert sample["answers"]["greedy"]["errors"] == ["wrong"]  # its program has no such answers


def test_one_that_is_left_out_does_not_err_otherwise() -> None:
    said = [("Perhaps.", "Yes."), ("No.", "Yes.")]
    records = [
        record("repope random", text, method, number, label="yes")
        for number, texts in enumerate(said)
        for method, text in zip(("greedy", "avc"), texts, strict=True)
    ]
    assert [one["id"][-1] for one in telling(samples_of(records))] == ["1", "0"]


def test_a_picture_of_mme_counts_where_both_its_questions_are_answered_by_the_method() -> None:
    asked = [
        record("mme count", said, method, number, label=label)
        for method, answers in (("greedy", ("Yes", "Yes")), ("avc", ("No", None)))
        for number, (said, label) in enumerate(zip(answers, ("yes", "no"), strict=True))
    ]
    asked[-1] |= {"status": "failed"}
    first, second = samples_of(asked)
    assert {method: answer["errors"] for method, answer in first["answers"].items()} == {"greedy": [], "avc": None}
    assert {method: answer["errors"] for method, answer in second["answers"].items()} == {"greedy": ["wrong"]}


def test_every_measure_says_what_is_wrong_in_an_answer() -> None:
    for measure in PARTS.values():
        assert isinstance(measure, Describes) == measure.captions
        assert measure.captions or "accuracy" in measure.directions
