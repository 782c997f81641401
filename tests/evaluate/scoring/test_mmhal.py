"""MMHal-Bench: ratings as a judge gives them, by the benchmark's own rule, with the judge's name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grounddecode.cli import main
from grounddecode.evaluate.scoring.judged import mmhal

KINDS = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")


def records(count: int) -> list[dict[str, object]]:
    return [
        {
            "question_type": KINDS[at % 8],
            "image_content": ["dog", "grass"],
            "question": f"What is there, {at}?",
            "gt_answer": "A dog on grass.",
            "model_answer": f"Answer {at}.",
        }
        for at in range(count)
    ]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Nothing is invented.\nRating: 5", 5),
        ("RATING: 0", 0),
        ("rating: 3, so rating: 3", 3),
        ("Rating: 2 or rating: 3", 0),
        ("Rating:4", 0),
        ("Rating: 7", 0),
        ("four", 0),
        ("", 0),
    ],
)
def test_ratings(reply: str, found: int) -> None:
    assert mmhal.rating(reply) == found


def test_scores_by_hand() -> None:
    asked = records(10)
    prompts: list[str] = []

    def judge(given: list[str]) -> list[str]:
        prompts.extend(given)
        return [f"Rating: {at % 7}" for at in range(len(given))]

    ratings = mmhal.judge(asked, mmhal.answers_in(asked), judge)
    assert ratings == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]
    found = mmhal.score(asked, ratings, "some-model")
    assert found["score"] == 2.4
    assert found["hallucination_rate"] == 0.6
    assert found["kinds"]["attribute"] == 0.5  # of questions 0 and 8
    assert list(found["kinds"]) == list(KINDS)
    assert (found["judge"], found["official"], found["n"]) == ("some-model", False, 10)
    for part in ("dog, grass", "What is there, 3?", "A dog on grass.", "Answer 3."):
        assert part in prompts[3]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    broken = records(2)
    del broken[1]["gt_answer"]
    (tmp_path / "r.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"record 2 of .* lacks gt_answer"):
        mmhal.read(tmp_path / "r.json")
    with pytest.raises(ValueError, match="record 1 has no model_answer"):
        mmhal.answers_in([{"model_answer": " "}])
    with pytest.raises(ValueError, match="2 questions and 1 answers"):
        mmhal.judge(records(2), ["x"], lambda prompts: prompts)
    with pytest.raises(ValueError, match="gave 1 replies to 2 prompts"):
        mmhal.judge(records(2), ["x", "y"], lambda prompts: prompts[:1])


def test_a_real_model_judges(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The lab's model is no judge, but the way to it is the one that any other takes."""
    (tmp_path / "r.json").write_text(json.dumps(records(2)))
    assert (
        main(["score", "mmhal", "--responses", str(tmp_path / "r.json"), "--judge", "lab", "--engine", "hf", "--json"])
        == 0
    )
    found = json.loads(capfd.readouterr().out)
    assert (found["judge"], found["n"], found["official"]) == ("lab", 2, False)
