"""POPE answers that do not stand beside their questions, near-answers, and LLaVA's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from grounddecode.evaluate.answers import scored
from grounddecode.evaluate.scoring import pope

LABELS = ("yes", "no", "no", "yes")
PERFECT = ("Yes", "No", "No", "Yes")


def asked(numbers: Sequence[Any] = (1, 2, 3, 4)) -> list[dict[str, Any]]:
    return [{"question_id": number, "label": label} for number, label in zip(numbers, LABELS, strict=True)]


def answered(*numbers: Any) -> list[dict[str, Any]]:
    return [{"question_id": number, "text": PERFECT[int(number) - 1]} for number in numbers]


BY_POSITION = [rule for rule in pope.RULES if rule != "vcd"]


@pytest.mark.parametrize("rule", pope.RULES)
def test_matching_ids_cost_nothing(rule: str) -> None:
    for numbers in ((1, 2, 3, 4), ("1", "02", 3.0, 4)):  # spelt otherwise
        found = pope.score(asked(), answered(*numbers), rule)
        assert (found["accuracy"], found["warnings"]) == (1.0, [])
    doubled = pope.score(asked((1, 2, 1, 2)), [{**a, "question_id": i} for a, i in zip(answered(1, 2, 3, 4), (1, 2, 1, 2), strict=True)], rule)  # fmt: skip  # noqa: E501
    assert (doubled["accuracy"], doubled["warnings"]) == (1.0, [])  # joined splits, pair by pair the same


@pytest.mark.parametrize("rule", BY_POSITION)
def test_another_order_is_put_right_and_told(rule: str) -> None:
    found = pope.score(asked(), answered(2, 1, 4, 3), rule)
    assert found["accuracy"] == 1.0
    assert found["warnings"][0].startswith("pair 1 has question_id 1 and 2: the answers were put in the order")
    kept = pope.score(asked(), answered(2, 1, 4, 3), rule, by_position=True)
    assert kept["accuracy"] == 0.0
    assert kept["warnings"][0] == "pair 1 has question_id 1 and 2: matched by position all the same."


def test_vcd_refuses_as_its_program_does() -> None:
    with pytest.raises(ValueError, match="pair 1 has question_id 1 and 2, which the rule vcd forbids: sort"):
        pope.score(asked(), answered(2, 1, 4, 3), "vcd")


@pytest.mark.parametrize("rule", pope.RULES)
@pytest.mark.parametrize(
    ("questions", "answers", "truncate", "said"),
    [
        ((1, 2, 3, 4), (1, 1, 2, 3), False, "pair 2 has question_id 2 and 1, and 1 stands twice among the answers"),
        ((1, 2, 1, 4), (1, 2, 3, 4), False, "pair 3 has question_id 1 and 3, and 1 stands twice among the questions"),
        ((1, 2, 9, 4), (1, 2, 3, 4), False, "pair 3 has question_id 9 and 3, and 9 has no answer"),
        ((1, 2, 3, 4), (1, 3, 4), True, "pair 2 has question_id 2 and 3, and 2 has no answer"),  # a hole
    ],
)
def test_ids_that_give_no_order_are_refused(
    rule: str, questions: tuple[int, ...], answers: tuple[int, ...], truncate: bool, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pope.score(asked(questions), answered(*answers), rule, allow_truncation=truncate)
    found = pope.score(asked(questions), answered(*answers), rule, allow_truncation=truncate, by_position=True)
    assert "matched by position all the same" in found["warnings"][0]


def test_files_without_ids_are_scored_as_before() -> None:
    texts = [{"text": text} for text in PERFECT]
    assert pope.score(asked(), texts)["warnings"] == []
    assert pope.score([{"label": label} for label in LABELS], answered(4, 3, 2, 1))["warnings"] == []
    some = [*texts[:1], *answered(2, 3, 4)]
    assert pope.score(asked(), some)["accuracy"] == 1.0
    with pytest.raises(ValueError, match="not all answers have one"):
        pope.score(asked(), [*texts[:1], *answered(3, 2, 4)])


def test_a_repeated_question_about_another_object_is_told() -> None:
    questions = [{"text": f"Is there a {name} in the imange?", "label": "yes"} for name in ("dog", "cup")]
    said = [
        {"question": f"Is there a {name} in the image?\nAnswer yes or no.", "answer": "Yes"} for name in ("cup", "dog")
    ]
    found = pope.score(questions, said)
    assert found["warnings"] == [
        "2 answers repeat a question about another object, such as pair 1 (dog, cup): are they in order?"
    ]
    assert pope.score(questions, said[::-1])["warnings"] == []


@pytest.mark.parametrize(
    ("rule", "text", "said"),
    [
        ("official", "Perhaps.", "1 answers hold neither yes nor no and count as yes, such as 'Perhaps.'."),
        ("llava", "", "1 answers hold neither yes nor no and count as yes, such as ''."),
        ("official", "NO", "1 answers hold a no that the rule official does not see, and count as yes, such as 'NO'."),
        ("official", "There isn't one", "1 answers hold a no that the rule official does not see"),
        ("opera", "**No**", "1 answers hold a no that the rule opera does not see"),
        ("vcd", "Perhaps", "1 answers hold neither yes nor no and count as wrong"),
        ("lmms-eval", "Yes.", "1 answers are not exactly yes or no and count as wrong, such as 'Yes.'."),
    ],
)
def test_near_answers_are_counted(rule: str, text: str, said: str) -> None:
    found = pope.score([{"label": "yes"}, {"label": "yes"}], ["yes", text], rule)
    assert [warning for warning in found["warnings"] if warning.startswith(said)]


@pytest.mark.parametrize(
    ("rule", "text"), [("opera", "There isn't one"), ("vcd", "Nothing"), ("official", "Yes. Not a cat.")]
)
def test_what_a_rule_reads_is_no_near_answer(rule: str, text: str) -> None:
    found = pope.score([{"label": "yes"}, {"label": "no"}], ["yes", text], rule)
    assert found["warnings"] == []


# -- LLaVA's files -----------------------------------------------------------------------------------------------------


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def llava(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two questions a split; by hand random is right twice, popular once."""
    questions, number = [], 10
    labels = tmp_path / "labels"
    labels.mkdir()
    for category, known in (("random", ("yes", "no")), ("popular", ("no", "yes"))):
        rows = [
            {"question_id": at, "text": f"Is there a thing{at} in the image?", "label": one}
            for at, one in enumerate(known)
        ]
        lines(labels / f"coco_pope_{category}.json", rows)
        for row in rows:
            questions.append({"question_id": number, "category": category, "text": row["text"] + "\nAnswer shortly."})
            number += 1
    answers = [{"question_id": 10 + at, "text": text} for at, text in enumerate(("Yes", "No", "Yes", "Yes"))]
    return lines(tmp_path / "q.jsonl", questions), lines(tmp_path / "a.jsonl", answers), labels


def test_labels_come_from_the_folder_by_category(llava: tuple[Path, Path, Path]) -> None:
    questions, answers, labels = llava
    found = scored.score_pope(questions, answers, "llava", labels=labels)
    assert (found["n"], found["accuracy"], found["warnings"]) == (4, 0.75, [])
    assert {name: one["accuracy"] for name, one in found["categories"].items()} == {"random": 1.0, "popular": 0.5}
    # The answers of one split after those of the other, which the program takes too.
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    lines(answers, rows[2:] + rows[:2])
    again = scored.score_pope(questions, answers, "llava", labels=labels)
    assert {name: one["accuracy"] for name, one in again["categories"].items()} == {"random": 1.0, "popular": 0.5}


def test_a_category_without_labels_is_left_out_and_told(llava: tuple[Path, Path, Path]) -> None:
    questions, answers, labels = llava
    (labels / "coco_pope_popular.json").unlink()
    found = scored.score_pope(questions, answers, "llava", labels=labels)
    assert (found["n"], found["accuracy"]) == (2, 1.0)
    assert "no labels for popular" in found["warnings"][0]
    (labels / "coco_pope_random.json").unlink()
    with pytest.raises(ValueError, match=r"holds no coco_pope_CATEGORY\.json"):
        scored.score_pope(questions, answers, "llava", labels=labels)


def test_labels_in_another_order_are_told(llava: tuple[Path, Path, Path]) -> None:
    questions, answers, labels = llava
    path = labels / "coco_pope_random.json"
    lines(path, [json.loads(line) for line in path.read_text().splitlines()][::-1])
    found = scored.score_pope(questions, answers, "llava", labels=labels)
    assert "about another object" in found["warnings"][0]


def test_what_does_not_belong_together_is_refused(llava: tuple[Path, Path, Path]) -> None:
    questions, answers, labels = llava
    with pytest.raises(ValueError, match="has no label"):
        scored.score_pope(questions, answers, "llava")
    lines(labels / "coco_pope_random.json", [{"label": "yes"}] * 3)
    with pytest.raises(ValueError, match="3 labels for 2 questions"):
        scored.score_pope(questions, answers, "llava", labels=labels)
    lines(answers, [{"question_id": 99, "text": "yes"}])
    with pytest.raises(ValueError, match="answer 1 has question_id 99, which no question has"):
        scored.score_pope(questions, answers, "llava", labels=labels)
    lines(questions, [{"question_id": 1, "text": "?"}])
    with pytest.raises(ValueError, match="question 1 has no category"):
        scored.score_pope(questions, answers, "llava", labels=labels)
    lines(questions, [{"question_id": 1, "category": "random"}] * 2)
    with pytest.raises(ValueError, match="1 stands twice among the questions"):
        scored.score_pope(questions, answers, "llava", labels=labels)


def test_the_answer_key(tmp_path: Path) -> None:
    questions = lines(tmp_path / "q", [{"label": "no"}])
    answers = lines(tmp_path / "a", [{"model_answer": "No", "text": "Yes"}])
    assert scored.score_pope(questions, answers)["fp"] == 1
    for rule in pope.RULES:
        assert scored.score_pope(questions, answers, rule, answer_key="model_answer")["tn"] == 1
    with pytest.raises(ValueError, match=f"{answers}: record 1 has no 'output'"):
        scored.score_pope(questions, answers, answer_key="output")
    lines(answers, [])
    with pytest.raises(ValueError, match="holds no records"):
        scored.score_pope(questions, answers)
