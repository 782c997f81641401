"""MMHal-Bench (arXiv:2309.14525): a model rates open answers from 0 to 6; below 3 counts as a hallucination."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.scoring.judged.hallusionbench import CAUTION, Judge
from grounddecode.secrets import hidden

KINDS = 8  # of question, in turn
HALLUCINATED_BELOW = 3
_FIELDS = ("question_type", "image_content", "question", "gt_answer")
_RATING = re.compile(r"rating: ([0-6])")
_SCALE = (
    "6: informative, with analysis, nothing invented; 5: very informative, nothing invented; 4: somewhat informative, "
    "nothing invented; 3: not informative, nothing invented; 2: very informative, something invented; 1: somewhat "
    "informative, something invented; 0: not informative, something invented"
)


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of the benchmark's response file, `model_answer` filled in or not.

    Raises:
        ValueError: a record lacks a field.
    """
    return json_lines.read_having(path, _FIELDS, "record", "MMHal-Bench's own file")


def answers_in(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answers that a filled response file holds. Raises ValueError where one is missing."""
    for place, record in enumerate(records, 1):
        if not isinstance(record.get("model_answer"), str) or not record["model_answer"].strip():
            raise ValueError(f"record {place} has no model_answer: fill it in, or give --answers.")
    return [record["model_answer"] for record in records]


def judging_prompt(record: Mapping[str, Any], answer: str) -> str:
    """What the judge is asked about one answer: our wording of the benchmark's scale, without its examples."""
    seen = record["image_content"]
    contents = ", ".join(map(str, seen)) if isinstance(seen, list) else str(seen)
    return (
        "You rate an answer to a question about a picture that you cannot see. You know what is in it, and a good "
        f"answer. The scale is {_SCALE}. Say what is invented, if anything is, then end with a line of the form "
        f"`Rating: N`.\n\nIn the picture: {contents}\nQuestion: {record['question']}\n"
        f"Good answer: {record['gt_answer']}\nAnswer to rate: {answer}"
    )


def rating(reply: str) -> int:
    """The number from 0 to 6 that stands behind `rating: ` in the lower-cased reply; 0 for none, or several."""
    found = set(_RATING.findall(reply.lower()))
    return int(found.pop()) if len(found) == 1 else 0


def judge(records: Sequence[Mapping[str, Any]], answers: Sequence[str], asked: Judge) -> list[int]:
    """One rating an answer.

    Raises:
        ValueError: the numbers of records, answers and replies differ.
    """
    if len(records) != len(answers):
        raise ValueError(f"there are {len(records)} questions and {len(answers)} answers: give one for each.")
    replies = asked([judging_prompt(record, answer) for record, answer in zip(records, answers, strict=True)])
    if len(replies) != len(records):
        raise ValueError(f"the judge gave {len(replies)} replies to {len(records)} prompts: it has to answer each.")
    return [rating(reply) for reply in replies]


def score(records: Sequence[Mapping[str, Any]], ratings: Sequence[int], judge: str) -> dict[str, Any]:
    """Mean rating, share of hallucinations, and the mean of each kind of question, which come in turn.

    Args:
        judge: the name of the judging model, which the result carries, without secrets.

    Returns:
        `score` (0 to 6), `hallucination_rate`, `kinds`, `n`, `judge`, `official` (always False) and `warnings`.
    """
    kinds: dict[str, list[int]] = {}
    for place, found in enumerate(ratings):
        kinds.setdefault(str(records[place % KINDS]["question_type"]), []).append(found)
    return {
        "score": fmean(ratings) if ratings else None,
        "hallucination_rate": sum(one < HALLUCINATED_BELOW for one in ratings) / len(ratings) if ratings else None,
        "kinds": {kind: fmean(held) for kind, held in kinds.items()},
        "n": len(ratings),
        "judge": hidden(judge),
        "official": False,
        "warnings": [CAUTION],
    }
