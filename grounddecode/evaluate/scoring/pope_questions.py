"""POPE questions, built by the rules of the benchmark's own construction program, with a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

STRATEGIES = ("random", "popular", "adversarial")
TEMPLATE = "Is there a {} in the image?"


def build(
    objects_per_image: Mapping[Any, Sequence[str]],
    strategy: str,
    seed: int,
    images: int | None = None,
    per_image: int = 3,
    template: str = TEMPLATE,
) -> list[dict[str, Any]]:
    """Ask for `per_image` objects that are in each image and as many that are not, in turn.

    Images with fewer than `per_image` objects are left out. Frequencies and co-occurrences are those of the images that
    are asked about; ties follow first appearance. Absent objects: any (`random`), the most frequent ones (`popular`),
    those most often seen beside the object just asked for (`adversarial`); where the last two find none, any.
    Rules of POPE (arXiv:2305.10355) `main.py` and `utils.py`; the program has no seed, and its article rule turns
    "image" into "imange", which the released files have mended: ours asks for "an" without that.

    Args:
        objects_per_image: objects in the order in which they are to be asked for.
        strategy: `random`, `popular` or `adversarial`.
        seed: of Python's generator; the same seed draws the same images for the three strategies.
        images: how many images to draw (the paper: 500); None keeps all, in their order.
        per_image: present objects an image (3).
        template: with one `{}` for the object and the article "a" before it.

    Returns:
        Records `question_id` (from 1), `image`, `text`, `label`, beside them `object`.

    Raises:
        ValueError: unknown strategy, too few images, an image that leaves no absent object.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"POPE has no strategy {strategy!r}: choose one of {', '.join(STRATEGIES)}.")
    rng = random.Random(seed)
    chosen = _choose(objects_per_image, images, per_image, rng)
    frequency = Counter(thing for _, things in chosen for thing in things)
    popular = [thing for thing, _ in frequency.most_common()]
    beside = _co_occurrence([things for _, things in chosen]) if strategy == "adversarial" else {}
    questions: list[dict[str, Any]] = []

    def ask(image: Hashable, thing: str, label: str) -> None:
        text = question_text(thing, template)
        number = len(questions) + 1
        questions.append({"question_id": number, "image": image, "text": text, "label": label, "object": thing})

    for image, things in chosen:
        asked: set[str] = set()
        for present in things[:per_image]:
            ask(image, present, "yes")
            asked.add(present)
            ranked = {"random": [], "popular": popular, "adversarial": beside.get(present, [])}[strategy]
            absent = _absent(ranked, list(frequency), asked.union(things), rng)
            if absent is None:
                raise ValueError(f"no object is absent from image {image!r}: give images with more kinds of objects.")
            ask(image, absent, "no")
            asked.add(absent)
    return questions


def question_text(thing: str, template: str = TEMPLATE) -> str:
    """The question about one object, with "an" before a, e, i, o, u."""
    article = "an" if thing[:1] in ("a", "e", "i", "o", "u") else "a"
    return template.replace("a {}", article + " {}").format(thing)


def _choose(
    objects_per_image: Mapping[Any, Sequence[str]], images: int | None, per_image: int, rng: random.Random
) -> list[tuple[Any, list[str]]]:
    rich = [(image, list(things)) for image, things in objects_per_image.items() if len(things) >= per_image]
    if images is None:
        return rich
    if len(rich) < images:
        raise ValueError(
            f"{images} images are wanted, but only {len(rich)} have {per_image} objects or more: ask for fewer images."
        )
    return rng.sample(rich, images)


def _co_occurrence(scenes: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """For each object the others seen with it, the most frequent first."""
    counts: dict[str, Counter[str]] = {}
    for things in scenes:
        for thing in things:
            counts.setdefault(thing, Counter()).update(other for other in things if other != thing)
    return {thing: [other for other, _ in seen.most_common()] for thing, seen in counts.items()}


def _absent(ranked: Sequence[str], everything: Sequence[str], taken: set[str], rng: random.Random) -> str | None:
    for thing in ranked:
        if thing not in taken:
            return thing
    if taken.issuperset(everything):
        return None
    return next(thing for thing in _draws(everything, rng) if thing not in taken)


def _draws(everything: Sequence[str], rng: random.Random) -> Iterator[str]:
    while True:  # draw and reject, so that the stream of random numbers is that of the program
        yield rng.choice(everything)
