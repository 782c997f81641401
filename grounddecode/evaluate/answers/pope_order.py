"""Whether POPE answers belong to the questions beside them: the public programs match by position and never look."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from grounddecode.evaluate import ids

ID = "question_id"
#: The object that a question of POPE's template is about; older files ask about the "imange".
_OBJECT = re.compile(r"\bis there (?:an? )?(.+?) in the iman?ge", re.IGNORECASE)
_TEXTS = ("question", "prompt", "text")

Question = Mapping[str, Any]
Answer = str | Mapping[str, Any]


def in_order(
    questions: Sequence[Question], answers: Sequence[Answer], by_position: bool = False, may_sort: bool = True
) -> tuple[list[Answer], list[str]]:
    """The answers in the order of the questions, and what the reader should know about that.

    Files whose ids agree pair by pair, or where one side has none, stay as they are. Where all ids are there and each
    occurs once on both sides, the answers are put in order by them.

    Args:
        by_position: keep the order whatever the ids say, as the public programs do.
        may_sort: put them in order rather than refuse.

    Raises:
        ValueError: ids that disagree and give no order.
    """
    asked, answered = [_id(question) for question in questions], [_id(answer) for answer in answers]
    pairs = enumerate(zip(asked, answered, strict=False), 1)
    differing = next((pair for pair in pairs if None not in pair[1] and pair[1][0] != pair[1][1]), None)
    if differing is None:
        return list(answers), []
    place, (one, other) = differing
    told = f"pair {place} has {ID} {one!r} and {other!r}"
    if by_position:
        return list(answers), [f"{told}: matched by position all the same."]
    why = _no_order(asked, answered)
    if why or not may_sort:
        raise ValueError(
            f"{told}{why or ', which the rule vcd forbids'}: sort the answers as the questions, or ask for a match by "
            "position if the ids mean nothing."
        )
    by_id = dict(zip(answered, answers, strict=True))
    return [by_id[key] for key in asked], [f"{told}: the answers were put in the order of the questions by {ID}."]


def of_questions(questions: Sequence[Question], answers: Sequence[Answer]) -> list[Answer]:
    """The answers of the questions by id, in their order; answers to other questions are left out.

    Raises:
        ValueError: an id that is missing or stands twice, or a question without an answer.
    """
    asked, answered = [_id(question) for question in questions], [_id(answer) for answer in answers]
    why = _no_order(asked, answered)
    others = set(answered) - set(asked)
    if why and not (others and why == _lengths(asked, answered)):
        raise ValueError(f"answers cannot be told by {ID}{why}: give answers with the ids of these questions.")
    by_id = dict(zip(answered, answers, strict=True))
    return [by_id[key] for key in asked]


def _id(record: Answer) -> int | str | None:
    found = record.get(ID) if isinstance(record, Mapping) else None
    return None if found is None else ids.normal(found)


def _no_order(asked: Sequence[int | str | None], answered: Sequence[int | str | None]) -> str:
    """Why answers cannot be put in order by their ids; "" where they can."""
    for name, found in (("answers", answered), ("questions", asked)):
        if None in found:
            return f", and not all {name} have one"
        if twice := ids.repeated(found):
            return f", and {twice[0]!r} stands twice among the {name}"
    there = set(answered)
    lost = next((one for one in asked if one not in there), None)
    if lost is not None:
        return f", and {lost!r} has no answer"
    return "" if len(asked) == len(answered) else _lengths(asked, answered)


def _lengths(asked: Sequence[object], answered: Sequence[object]) -> str:
    return f", and there are {len(asked)} questions and {len(answered)} answers"


def other_objects(questions: Sequence[Question], answers: Sequence[Answer]) -> list[str]:
    """A sentence where answers repeat a question about another object than the one they are matched with."""
    odd = []
    for place, (question, answer) in enumerate(zip(questions, answers, strict=False), 1):
        asked = _object(question.get("text"))
        named = [_object(answer.get(key)) for key in _TEXTS] if isinstance(answer, Mapping) else []
        other = next((name for name in named if name), None)
        if asked and other and asked != other:
            odd.append(f"pair {place} ({asked}, {other})")
    if not odd:
        return []
    return [f"{len(odd)} answers repeat a question about another object, such as {odd[0]}: are they in order?"]


def _object(text: Any) -> str | None:
    found = _OBJECT.search(text) if isinstance(text, str) else None
    return found[1].lower() if found else None
