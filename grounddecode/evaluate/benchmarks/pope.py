"""POPE: yes/no questions about objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import (
    PERCENT,
    QUESTION_SEED,
    Benchmark,
    Column,
    Labelled,
    Record,
    Row,
    Wanted,
)
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import COCO_IMAGES, COCO_INSTANCES, Item, released
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring import pope
from grounddecode.evaluate.scoring.pope_questions import STRATEGIES, build

_RELEASE = "https://raw.githubusercontent.com/AoiDragon/POPE/3df3ba1b110ecce25696989577fad583b67d4239/output/coco/"


def _file(split: str, size: int, sha256: str) -> Item:
    return released("pope", split, f"coco_pope_{split}.json", "MIT", size, sha256, _RELEASE)


FILES = {
    "random": _file("random", 368_166, "ac25245170b975a5bdf9080b23fd431dfe6be458bc038259c1f4f09a6bef7994"),
    "popular": _file("popular", 370_190, "72c1a8ad45d0c13514f5f22598261df41d3b533854d29682e924db50ed8aa753"),
    "adversarial": _file("adversarial", 370_401, "420b3407db1fa9f1187a805dca41cb7b97fd91504e6c2179706188c107fb8ef8"),
}


class Pope:
    """Yes/no questions about objects."""

    captions = False
    directions: Mapping[str, bool | None] = {
        "accuracy": True,
        "f1": True,
        "balanced_accuracy": True,
        "precision": True,
        "recall": True,
        "yes_ratio": None,
    }
    columns: tuple[Column, ...] = (
        Column("accuracy", "accuracy", PERCENT),
        Column("f1", "F1", PERCENT),
        Column("yes_ratio", "yes rate", PERCENT),
        Column("balanced_accuracy", "balanced accuracy", PERCENT),
    )
    headlines: tuple[str, ...] = ("accuracy",)
    facts: Any = Labelled
    rule: str | None = None
    """Of a benchmark that has one of its own; None: the one that is asked for."""

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        rule = self.rule or scoring.pope_rule
        answers = [str(record["response"]) for record in records]
        block = pope.score(records, answers, rule, by_position=True)
        return block, [self._row(record, answer, rule) for record, answer in zip(records, answers, strict=True)]

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        tp, fp, tn, fn, n = (sums[name] for name in ("tp", "fp", "tn", "fn", "n"))
        precision, recall = divide(tp, tp + fp), divide(tp, tp + fn)
        return {
            "accuracy": divide(tp + tn, n),
            "f1": harmonic(precision, recall),
            "balanced_accuracy": (recall + divide(tn, tn + fp)) / 2,
            "precision": precision,
            "recall": recall,
            "yes_ratio": divide(sums["yes"], n),
        }

    @staticmethod
    def _row(record: Record, answer: str, rule: str) -> Row:
        one = pope.score([record], [answer], rule)
        return {name: one[name] for name in ("tp", "fp", "tn", "fn", "n")} | {"yes": one["yes_ratio"] or 0}


def samples(wanted: Wanted) -> Iterator[Sample]:
    """The released question files; for COCO-shaped folders without any, questions built by the official rules."""
    root = sources.root_of(wanted)
    folder = sources.place_of(COCO_IMAGES, root, "pope")
    for split, item in FILES.items():
        path = item.find(root)
        questions, numbers = _built(root, split) if path is None else (json_lines.read(path), {})
        source = "built" if path is None else path.name
        yield from asked("pope", split, questions[: wanted.limit], folder, source, numbers)


def asked(
    benchmark: str,
    split: str,
    questions: Sequence[Mapping[str, Any]],
    folder: Path,
    source: str,
    numbers: Mapping[str, int] = MappingProxyType({}),
) -> Iterator[Sample]:
    """Samples of POPE-shaped questions about pictures in a folder.

    Args:
        source: where the questions are from.  numbers: ids of pictures by file name, where annotations give them.
    """
    sources.require_pictures(folder, [question["image"] for question in questions], benchmark)
    # POPE matches by position, its ids mean nothing: questions that share one are all asked, and all counted.
    part = f"{benchmark}-{split}" if split else benchmark
    names = ids.unique(f"{part}/{question.get('question_id', at)}" for at, question in enumerate(questions, 1))
    for name, question in zip(names, questions, strict=True):
        yield Sample(
            name,
            benchmark,
            split,
            numbers.get(question["image"], ids.normal(question["image"])),
            str(folder / question["image"]),
            question["text"],
            sources.ANSWER_TOKENS,
            {"label": question["label"], "questions": source},
        )


def samples_drawn(wanted: Wanted) -> Iterator[Sample]:
    """Questions about the scenes with three objects or more among the first scenes of the split."""
    objects = {scene.seed: list(dict.fromkeys(scene.categories)) for scene in sources.scenes(wanted)}
    for strategy in STRATEGIES:
        for asked in build(objects, strategy, QUESTION_SEED)[: wanted.limit]:
            seed = asked["image"]
            name = f"pope-{strategy}/{asked['question_id']}"
            facts = {"label": asked["label"], "object": asked["object"]}
            yield Sample(
                name, "pope", strategy, seed, sources.picture_of(seed), asked["text"], sources.LAB_ANSWER_TOKENS, facts
            )


def _built(root: Path, strategy: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Questions by the official rules, and the ids of the pictures."""
    instances = json_lines.read_json(sources.place_of(COCO_INSTANCES, root, "pope"))
    names = {category["id"]: category["name"] for category in instances["categories"]}
    objects: dict[str, dict[str, None]] = {image["file_name"]: {} for image in instances["images"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    for annotation in instances["annotations"]:
        objects[files[annotation["image_id"]]][names[annotation["category_id"]]] = None
    asked_of = {image: list(found) for image, found in objects.items()}
    return build(asked_of, strategy, QUESTION_SEED), {name: number for number, name in files.items()}


POPE = Benchmark(
    name="pope",
    title="POPE",
    parts=dict.fromkeys(STRATEGIES, Pope()),
    items=(*FILES.values(), COCO_IMAGES),
    samples=samples,
    samples_drawn=samples_drawn,
)
