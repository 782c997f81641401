"""The lab's versions of the benchmarks: official rules on drawn scenes of the evaluation split."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from grounddecode.evaluate import chair as chair_scorer
from grounddecode.evaluate.benchmarks import QUESTION_SEED, Wanted
from grounddecode.evaluate.pope import build
from grounddecode.evaluate.pope_questions import STRATEGIES
from grounddecode.evaluate.samples import LAB, Sample

IMAGES = 500  # as many as papers take for CHAIR and POPE
CAPTION_PROMPT = "Describe this image in detail."
CAPTION_TOKENS, ANSWER_TOKENS = 60, 8


def chair(wanted: Wanted) -> Iterator[Sample]:
    """Long captions of the first evaluation scenes."""
    count = min(wanted.limit or IMAGES, IMAGES)
    truth = chair_scorer.ground_truth(*_annotations(IMAGES), wanted.flavour)
    for seed in list(truth)[:count]:
        yield Sample(
            f"chair/{seed}",
            "chair",
            "",
            seed,
            f"{LAB}{seed}",
            CAPTION_PROMPT,
            wanted.max_new_tokens or CAPTION_TOKENS,
            {"truth": truth[seed]},
        )


def pope(wanted: Wanted) -> Iterator[Sample]:
    """Questions about the scenes with three objects or more among the first evaluation scenes."""
    objects = _objects(IMAGES)
    for strategy in STRATEGIES:
        for question in build(objects, strategy, QUESTION_SEED)[: wanted.limit]:
            seed = question["image"]
            yield Sample(
                f"pope-{strategy}/{question['question_id']}",
                "pope",
                strategy,
                seed,
                f"{LAB}{seed}",
                question["text"],
                ANSWER_TOKENS,
                {"label": question["label"], "object": question["object"]},
            )


@cache
def _annotations(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    from grounddecode.lab.dataset import annotations
    from grounddecode.lab.world import scenes

    return annotations(scenes("evaluation", count))


def _objects(count: int) -> dict[int, list[str]]:
    """Annotated categories of each scene, in the order of its annotations."""
    instances, _ = _annotations(count)
    names = {category["id"]: category["name"] for category in instances["categories"]}
    found: dict[int, list[str]] = {image["id"]: [] for image in instances["images"]}
    for annotation in instances["annotations"]:
        found[annotation["image_id"]].append(names[annotation["category_id"]])
    return {image: list(dict.fromkeys(objects)) for image, objects in found.items()}
