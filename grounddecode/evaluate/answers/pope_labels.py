"""LLaVA's POPE files: questions of all splits with a category and no label, and one label file a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.answers.pope_order import ID, other_objects

_BEGINNING, _ENDING = "coco_pope_", ".json"


def labelled(
    questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], folder: str | Path
) -> tuple[list[dict[str, Any]], list[Mapping[str, Any]], list[str]]:
    """Questions with the labels of `folder/coco_pope_CATEGORY.json`, their answers, and what to know about them.

    As LLaVA's `eval_pope.py`: an answer's category is that of the question with its id, and within a category labels
    are taken by position. Categories without a label file are left out, as there.

    Raises:
        ValueError: no label file, questions without id or category, ids that occur twice, labels and questions of a
            category that differ in number, or answers to no question.
    """
    asked = _by_category(questions, folder)
    known = {ids.normal(question[ID]): str(question["category"]) for question in questions}
    given: list[tuple[str, Mapping[str, Any]]] = []
    for place, answer in enumerate(answers, 1):
        key = ids.normal(answer.get(ID))
        if key not in known:
            raise ValueError(
                f"answer {place} has {ID} {key!r}, which no question has: give answers to these questions."
            )
        given.append((known[key], answer))
    wanted: list[dict[str, Any]] = []
    notes: list[str] = []
    for category, path in label_files(folder).items():
        found, told = _with_labels(asked.pop(category, []), path)
        wanted += found
        notes += told
    kept = {category for category, _ in given} - set(asked)
    if asked:
        notes.append(f"{folder} has no labels for {', '.join(sorted(asked))}: these questions are left out.")
    return _as_given(questions, wanted), [answer for category, answer in given if category in kept], notes


def label_files(folder: str | Path) -> dict[str, Path]:
    """Category to label file.

    Raises:
        ValueError: there is none.
    """
    found = sorted(Path(folder).glob(f"{_BEGINNING}*{_ENDING}"))
    if not found:
        raise ValueError(f"{folder} holds no {_BEGINNING}CATEGORY{_ENDING}: give the folder of POPE's label files.")
    return {path.name[len(_BEGINNING) : -len(_ENDING)]: path for path in found}


def _by_category(questions: Sequence[Mapping[str, Any]], folder: str | Path) -> dict[str, list[Mapping[str, Any]]]:
    asked: dict[str, list[Mapping[str, Any]]] = {}
    for place, question in enumerate(questions, 1):
        missing = next((field for field in (ID, "category") if question.get(field) is None), None)
        if missing is not None:
            raise ValueError(
                f"question {place} has no {missing}, by which {folder} gives it a label: give LLaVA's file."
            )
        asked.setdefault(str(question["category"]), []).append(question)
    if twice := ids.repeated(ids.normal(question[ID]) for question in questions):
        raise ValueError(f"{ID} {twice[0]!r} stands twice among the questions: answers cannot be told apart by it.")
    return asked


def _with_labels(asked: Sequence[Mapping[str, Any]], path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    labels = json_lines.read(path)
    if asked and len(labels) != len(asked):
        raise ValueError(f"{path} has {len(labels)} labels for {len(asked)} questions: give files of one release.")
    lost = next((place for place, label in enumerate(labels, 1) if "label" not in label), None)
    if lost is not None:
        raise ValueError(f"{path}, record {lost}, has no label: give POPE's own file.")
    found = [{**question, "label": label["label"]} for question, label in zip(asked, labels, strict=False)]
    return found, [f"{path}: {told}" for told in other_objects(asked, labels)]


def _as_given(questions: Sequence[Mapping[str, Any]], wanted: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    place = {ids.normal(question[ID]): at for at, question in enumerate(questions)}
    return sorted(wanted, key=lambda question: place[ids.normal(question[ID])])
