"""MME: accuracy of questions, and of pictures with both questions right; its hallucination subset, and all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import (
    PERCENT,
    Benchmark,
    Column,
    Labelled,
    Record,
    Row,
    Wanted,
)
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import Item
from grounddecode.evaluate.intervals import Floats, divide
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring import mme

FOLDERS = {
    task: Item(
        f"mme {task}",
        (f"mme/{task}", f"mme/MME_Benchmark_release_version/{task}", task),
        "research only, ask its authors",
        0,
        where="ask for MME_Benchmark_release_version at https://github.com/BradyFU/Awesome-Multimodal-Large-Language-"
        "Models (branch Evaluation) and unpack this folder of pictures and question files there",
    )
    for task in mme.ALL_TASKS
}
_PICTURES = (".jpg", ".jpeg", ".png")


class Mme:
    """Two yes/no questions a picture. A picture with a failed question is left out whole."""

    captions = False
    directions: Mapping[str, bool | None] = {"score": True, "accuracy": True, "accuracy_plus": True, "yes_ratio": None}
    columns: tuple[Column, ...] = (
        Column("score", "score"),
        Column("accuracy", "accuracy", PERCENT),
        Column("accuracy_plus", "accuracy+", PERCENT),
        Column("yes_ratio", "yes rate", PERCENT),
    )
    headlines: tuple[str, ...] = ("score",)
    facts = Labelled

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        asked = Counter(record["image_id"] for record in records)
        whole = [record for record in records if asked[record["image_id"]] == 2]
        whole.sort(key=lambda record: str(record["image_id"]))  # stable: the two questions of a picture stay in order
        task = str(records[0]["split"]) if records else "mme"
        found = mme.score({task: [(record["label"], record["response"]) for record in whole]})
        numbers = {**found["tasks"][task], "warnings": found["warnings"]}
        rows = _rows(records, whole)
        said_yes = sum(row["yes"] for row in rows)
        return {**numbers, "yes_ratio": said_yes / len(whole) if whole else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        accuracy, plus = divide(sums["right"], sums["asked"]), divide(sums["both"], sums["pictures"])
        return {
            "score": 100 * accuracy + 100 * plus,
            "accuracy": accuracy,
            "accuracy_plus": plus,
            "yes_ratio": divide(sums["yes"], sums["asked"]),
        }


def _samples(name: str, tasks: Sequence[str], wanted: Wanted) -> Iterator[Sample]:
    """Two questions a picture; the limit counts pictures twice, so that none loses a question."""
    root = sources.root_of(wanted)
    for task in tasks:
        folder = sources.place_of(FOLDERS[task], root, name)
        asked = list(_mme_questions(folder))
        for number, (picture, question, label) in enumerate(asked[: wanted.limit and 2 * ((wanted.limit + 1) // 2)]):
            facts = {"label": label.lower()}
            sample = f"{name}-{task}/{number + 1}"
            yield Sample(sample, name, task, picture.name, str(picture), question, sources.ANSWER_TOKENS, facts)


def _mme_questions(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Pictures in order of their names, each with the lines `question<TAB>answer` of its text file."""
    pictures = folder / "images" if (folder / "images").is_dir() else folder
    texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
    for picture in sorted(path for path in pictures.iterdir() if path.suffix.lower() in _PICTURES):
        text = texts / f"{picture.stem}.txt"
        lines = [line for line in json_lines.read_text(text).splitlines() if line.strip()]
        if len(lines) != 2 or any(line.count("\t") != 1 for line in lines):
            raise ValueError(f"{text} is not two lines of question, tab, answer: give the file of MME's release")
        for line in lines:
            question, _, answer = line.partition("\t")
            yield picture, question, answer.strip()


def _rows(records: Sequence[Record], whole: Sequence[Record]) -> list[Row]:
    """One row a record; what concerns a whole picture is split between its two."""
    right = Counter(r["image_id"] for r in whole if mme.read_answer(r["response"]) == r["label"])
    kept = {record["sample_id"] for record in whole}
    rows = []
    for record in records:
        answer, counts = mme.read_answer(record["response"]), record["sample_id"] in kept
        rows.append(
            {
                "asked": float(counts),
                "right": float(counts and answer == record["label"]),
                "yes": float(counts and answer == "yes"),
                "pictures": 0.5 * counts,
                "both": 0.5 * (counts and right[record["image_id"]] == 2),
            }
        )
    return rows


def _total(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of the tasks' scores."""
    return {"total": sum(block["score"] or 0.0 for block in splits.values())} if splits else {}


def _totals(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of MME's two halves, of 2000 and 800 at most."""
    return {
        half: sum(splits[task]["score"] or 0.0 for task in tasks)
        for half, tasks in (("perception", mme.PERCEPTION), ("cognition", mme.COGNITION))
        if splits.keys() >= set(tasks)
    }


def _benchmark(name: str, title: str, tasks: Sequence[str], total: Callable[..., dict[str, Any]]) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        parts=dict.fromkeys(tasks, Mme()),
        items=tuple(FOLDERS[task] for task in tasks),
        samples=partial(_samples, name, tasks),
        total=total,
    )


MME = _benchmark("mme", "MME", mme.TASKS, _total)
#: What a method costs in general: all fourteen tasks, of which the four above are a part.
MME_FULL = _benchmark("mme-full", "MME full", mme.ALL_TASKS, _totals)
