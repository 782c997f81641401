"""CHAIR: captions, and the objects in them that their pictures do not have."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from grounddecode.evaluate import ids, json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import (
    PERCENT,
    QUESTION_SEED,
    Benchmark,
    Column,
    Record,
    Row,
    Wanted,
)
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import COCO, COCO_CAPTIONS, COCO_IMAGES, COCO_INSTANCES
from grounddecode.evaluate.intervals import Floats, divide, harmonic
from grounddecode.evaluate.language.word_lists import data
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring import chair
from grounddecode.registry import nearest

IMAGES = 500


class _Facts(TypedDict):
    truth: list[str]


class Chair:
    """Captions, and which objects they name."""

    captions = True
    directions: Mapping[str, bool | None] = {
        "chair_s": False,
        "chair_i": False,
        "chair_i_unique": False,
        "recall": True,
        "precision": True,
        "f1": True,
        "words": None,
        "repetition_rate": False,
    }
    columns: tuple[Column, ...] = (
        Column("chair_s", "CHAIR_s", PERCENT),
        Column("chair_i", "CHAIR_i", PERCENT),
        Column("chair_i_unique", "CHAIR_i unique", PERCENT),
        Column("recall", "recall", PERCENT),
        Column("f1", "F1", PERCENT),
        Column("words", "words"),
        Column("repetition_rate", "repetition", PERCENT),
    )
    # Each mention counts, so saying what is there once more lowers CHAIR_i: a gain is one in distinct objects too.
    headlines: tuple[str, ...] = ("chair_i", "chair_i_unique")
    facts = _Facts

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        result = _scored(records, scoring)
        rows = [self._row(found, record) for found, record in zip(result.captions, records, strict=True)]
        words = sum(row["words"] for row in rows)
        if scoring.drop_unfinished:
            shortened = sum(bool(record.get("shortened")) for record in records)
            result.summary.update({"drop_unfinished": True, "n_shortened": shortened})
        return {**result.summary, "words": words / len(rows) if rows else None}, rows

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        precision = divide(sums["found"], sums["distinct"])
        recall = divide(sums["found"], sums["truth"])
        return {
            "chair_s": divide(sums["with_invented"], sums["n"]),
            "chair_i": divide(sums["invented"], sums["mentions"]),
            "chair_i_unique": 1 - precision,
            "recall": recall,
            "precision": precision,
            "f1": harmonic(precision, recall),
            "words": divide(sums["words"], sums["n"]),
            "repetition_rate": divide(sums["repeated_grams"], sums["grams"]),
        }

    def invented(self, records: Sequence[Record], scoring: Scoring) -> list[list[str]]:
        found = _scored(records, scoring).captions
        return [list(dict.fromkeys(name for _, name in caption["hallucinated"])) for caption in found]

    @staticmethod
    def _row(found: Mapping[str, Any], record: Record) -> Row:
        return {
            "n": 1,
            "with_invented": found["chair_s"],
            "mentions": len(found["objects"]),
            "invented": len(found["hallucinated"]),
            "found": found["n_found"],
            "distinct": found["n_distinct"],
            "truth": found["n_truth"],
            "grams": found["n_four_grams"],
            "repeated_grams": found["n_repeated_four_grams"],
            "words": len(str(record["response"]).split()),
        }


def _scored(records: Sequence[Record], scoring: Scoring) -> chair.ChairResult:
    captions = [{"image_id": record["image_id"], "caption": record["response"]} for record in records]
    truth = {record["image_id"]: record["truth"] for record in records}
    return chair.score(captions, truth, scoring.chair_flavour)


def samples(wanted: Wanted) -> Iterator[Sample]:
    """Captions of 500 COCO images: a published list by name, those whose ids `chair/images.txt` lists, else drawn with
    a fixed seed."""
    root = sources.root_of(wanted)
    folder = sources.place_of(COCO_IMAGES, root, "chair")
    instances = json_lines.read_json(sources.place_of(COCO_INSTANCES, root, "chair"))
    captions = json_lines.read_json(sources.place_of(COCO_CAPTIONS, root, "chair"))
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    truth = chair.ground_truth(instances, captions, wanted.flavour)
    chosen = _chosen(root / "chair" / "images.txt", sorted(files), wanted.ids)[: wanted.limit]
    sources.require_pictures(folder, [files[image] for image in chosen], "chair")
    tokens = wanted.max_new_tokens or sources.CAPTION_TOKENS
    for name, image in zip(ids.unique(f"chair/{image}" for image in chosen), chosen, strict=True):
        path = str(folder / files[image])
        facts = {"truth": truth[image]}
        yield Sample(name, "chair", "", image, path, sources.CAPTION_PROMPT, tokens, facts)


def samples_drawn(wanted: Wanted) -> Iterator[Sample]:
    """Long captions of the first scenes of the split."""
    from grounddecode.lab.dataset import annotations

    scenes = sources.scenes(wanted, min(wanted.limit or sources.LAB_IMAGES, sources.LAB_IMAGES))
    truth = chair.ground_truth(*annotations(scenes), wanted.flavour)
    tokens = wanted.max_new_tokens or sources.LAB_CAPTION_TOKENS
    for scene in scenes:
        facts = {"truth": truth[scene.seed]}
        name, image = f"chair/{scene.seed}", sources.picture_of(scene.seed)
        yield Sample(name, "chair", "", scene.seed, image, sources.CAPTION_PROMPT, tokens, facts)


def _chosen(listed: Path, images: Sequence[int], published: str | None) -> list[int]:
    """Ids of a published list, or of a file, one a line; else 500 drawn with a fixed seed, or all where there are
    fewer."""
    if published is not None:
        return _known(images_of(published), images, f"the list {published}")
    if not listed.is_file():
        return random.Random(QUESTION_SEED).sample(images, min(IMAGES, len(images)))
    return _known([ids.normal(image) for image in json_lines.read_text(listed).split()], images, str(listed))


def _known(wanted: Sequence[int | str], images: Sequence[int], source: str) -> list[int]:
    known = {ids.normal(image): image for image in images}
    unknown = next((image for image in wanted if image not in known), None)
    if unknown is not None:
        raise ValueError(f"{source} names the image {unknown}, which the annotations do not have: give val2014's ids")
    return [known[image] for image in wanted]


def id_lists() -> list[str]:
    """Names of the published lists of image ids."""
    return [name for name in data("image_ids.json") if name != "about"]


def images_of(published: str) -> list[int]:
    """The COCO ids of a published list, in its order. Raises ValueError for a name that there is not."""
    if published not in id_lists():
        raise ValueError(nearest(published, id_lists(), "published list of image ids"))
    return list(map(int, " ".join(data("image_ids.json")[published]).split()))


CHAIR = Benchmark(
    name="chair",
    title="CHAIR",
    parts={"": Chair()},
    items=COCO,
    samples=samples,
    samples_drawn=samples_drawn,
)
