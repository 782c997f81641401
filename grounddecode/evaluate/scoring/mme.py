"""MME, scored as the benchmark's own program does: fourteen tasks, four of which are its hallucination subset."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate import json_lines

TASKS = ("existence", "count", "position", "color")
PERCEPTION = (*TASKS, "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ALL_TASKS = (*PERCEPTION, *COGNITION)

#: One answer: the truth ("yes" or "no") and the model's text.
Pair = tuple[str, str]


def read(folder: str | Path, tasks: Sequence[str] = TASKS) -> dict[str, list[Pair]]:
    """The answers in `TASK.txt` files: lines of image, question, truth and answer with tabs between, two an image.

    Raises:
        ValueError: no task, a file that is missing, or a line without four fields.
    """
    if not tasks:
        raise ValueError(f"no task of MME was given: name at least one of {', '.join(TASKS)}.")
    found: dict[str, list[Pair]] = {}
    for task in tasks:
        path = Path(folder) / f"{task}.txt"
        lines = [(at, line) for at, line in enumerate(io.StringIO(json_lines.read_text(path)), 1) if line.strip()]
        found[task] = _pairs([(at, _fields(line, f"{path}, line {at},")) for at, line in lines], path)
    return found


def _fields(line: str, where: str) -> list[str]:
    fields = line.split("\t")
    if len(fields) != 4:
        raise ValueError(f"{where} has {len(fields)} fields: give image, question, truth and answer with tabs between.")
    return fields


def _pairs(lines: Sequence[tuple[int, Sequence[str]]], path: Path) -> list[Pair]:
    """Truths and answers of numbered lines; two after each other have to be of one image, as in MME."""
    for (at, one), (behind, other) in zip(lines[::2], lines[1::2], strict=False):
        if one[0] != other[0]:
            raise ValueError(
                f"{path}, lines {at} and {behind}, are of the images {one[0]!r} and {other[0]!r}: "
                "give the two questions of an image after each other."
            )
    return [(fields[2], fields[3]) for _, fields in lines]


def read_answer(text: str) -> str:
    """The rule of MME's program: lower case; yes or no alone, else within the first four characters, yes first."""
    said = text.lower()
    if said in ("yes", "no"):
        return said
    start = said[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def score(answers: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """Score tasks (arXiv:2306.13394; `calculation.py`): 100 x accuracy + 100 x share of images with both answers right.

    Args:
        answers: task to pairs of truth and text; two consecutive pairs belong to one image.

    Returns:
        `total` and, by task, `score` (0 to 200), `accuracy`, `accuracy_plus`, `tp fn tn fp other n`. A task without
        answers has None, and a sentence in `warnings`.

    Raises:
        ValueError: an odd number of answers, or a truth that is neither yes nor no.
    """
    warnings = [f"the task {task} has no answers." for task, pairs in answers.items() if not pairs]
    warnings += [told for task, pairs in answers.items() for told in _near_answers(task, pairs)]
    tasks = {task: _score_task(task, pairs) for task, pairs in answers.items()}
    total: float = 0
    for result in tasks.values():
        total += result["score"] or 0
    return {"total": total, "tasks": tasks, "warnings": warnings}


def _near_answers(task: str, pairs: Sequence[Pair]) -> list[str]:
    odd = [text for _, text in pairs if read_answer(text) == "other"]
    if not odd:
        return []
    return [
        f"{len(odd)} of {len(pairs)} answers of {task} begin with neither yes nor no and count as wrong, "
        f"such as {odd[0].strip()[:60]!r}."
    ]


def _score_task(task: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    if len(pairs) % 2:
        raise ValueError(f"the task {task} has {len(pairs)} answers: give two for each image.")
    truths = [truth.lower() for truth, _ in pairs]
    odd = next((truth for truth in truths if truth not in ("yes", "no")), None)
    if odd is not None:
        raise ValueError(f"the task {task} has the truth {odd!r}: only yes and no are possible.")
    said = [read_answer(text) for _, text in pairs]
    right = [truth == answer for truth, answer in zip(truths, said, strict=True)]
    images = [one and other for one, other in zip(right[::2], right[1::2], strict=True)]
    accuracy = sum(right) / len(right) if right else None
    plus = sum(images) / len(images) if images else None
    outcomes = list(zip(truths, said, strict=True))
    return {
        "score": accuracy * 100 + plus * 100 if accuracy is not None and plus is not None else None,
        "accuracy": accuracy,
        "accuracy_plus": plus,
        "tp": outcomes.count(("yes", "yes")),
        "fn": outcomes.count(("yes", "no")),
        "tn": outcomes.count(("no", "no")),
        "fp": outcomes.count(("no", "yes")),
        "other": said.count("other"),
        "n": len(pairs),
    }
