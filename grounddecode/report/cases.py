"""Cases of a run: a picture, its ground truth, and what every method said about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate.folder.lines import Question, question
from grounddecode.evaluate.sample import LAB, open_picture
from grounddecode.evaluate.scoring.chair import PATTERN
from grounddecode.report.marks import Mark, mark
from grounddecode.report.overlay import Box

if TYPE_CHECKING:
    from PIL import Image

Find = Callable[[str], "Path | None"]
_HALF_PAIRS = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Said:
    """One method's caption, its object words marked, and the objects of the picture that it does not name.

    `same_as` is the method before it that said the very same, or "".
    """

    method: str
    text: str
    marks: tuple[Mark, ...]
    missed: tuple[str, ...]
    same_as: str = ""

    @property
    def n_words(self) -> int:
        return len(self.text.split())

    @property
    def n_invented(self) -> int:
        return sum(not one.real for one in self.marks)


@dataclass(frozen=True)
class Case:
    """A picture, what counts as present in it, and the captions of all methods, greedy first.

    `image` is None where its file is not there any more, `boxes` are empty where the run does not know them.
    """

    label: str
    image: Image.Image | None
    boxes: tuple[Box, ...]
    objects: tuple[str, ...]
    said: tuple[Said, ...]


def captions(records: Sequence[Mapping[str, Any]]) -> dict[Question, list[Mapping[str, Any]]]:
    """The caption records of each picture that did not fail, both in the order of the run."""
    found: dict[Question, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["benchmark"] == "chair" and record.get("status", "ok") == "ok":
            found.setdefault(question(record), []).append(record)
    return found


def only(
    captions: Mapping[Question, Sequence[Mapping[str, Any]]], methods: Sequence[str]
) -> dict[Question, list[Mapping[str, Any]]]:
    """The captions of these methods."""
    return {image: [one for one in found if one["method"] in methods] for image, found in captions.items()}


def choose(images: Sequence[Question], count: int) -> list[Question]:
    """`count` of the images, evenly spread over the run: nobody picked them."""
    if count >= len(images):
        return list(images)
    return [images[(2 * at + 1) * len(images) // (2 * count)] for at in range(count)]


def differing(captions: Mapping[Question, Sequence[Mapping[str, Any]]]) -> dict[Question, int]:
    """The images that not all methods describe word for word alike, with how many captions they have between them."""
    said = {image: len({record["response"] for record in records}) for image, records in captions.items()}
    return {image: count for image, count in said.items() if count > 1}


def choose_differing(images: Mapping[Question, int], count: int) -> list[Question]:
    """`count` of the images of `differing`, those with the most captions first; evenly spread among their like."""
    chosen: list[Question] = []
    ranked = sorted(images, key=lambda image: -images[image])  # stable: in the order of the run
    for _, alike in groupby(ranked, key=lambda image: images[image]):
        chosen += choose(list(alike), count - len(chosen))
    return chosen


def case(records: Sequence[Mapping[str, Any]], flavour: str = PATTERN, find: Find = Path) -> Case:
    """One case from the caption records of one picture.

    Args:
        find: the file of a stored picture, or None where it is gone.
    """
    first = records[0]
    image, boxes, label = look(first["image"], find)
    objects = tuple(whole(name) for name in first["truth"])
    captions = {whole(record["method"]): whole(record["response"]) for record in records}
    return Case(whole(label), image, boxes, objects, said(captions, objects, flavour))


def whole(text: str) -> str:
    """The text without halves of pairs, which servers send and no file or picture can hold."""
    return _HALF_PAIRS.sub("\N{REPLACEMENT CHARACTER}", text)


def said(captions: Mapping[str, str], objects: Sequence[str], flavour: str = PATTERN) -> tuple[Said, ...]:
    """What every method said, `{method: caption}`, greedy first."""
    order = sorted(captions, key=lambda method: method != "greedy")
    first = {captions[method]: method for method in reversed(order)}
    shown = []
    for method in order:
        text = captions[method]
        marks = tuple(mark(text, objects, flavour))
        named = {one.object for one in marks}
        missed = tuple(name for name in objects if name not in named)
        shown.append(Said(method, text, marks, missed, first[text] if first[text] != method else ""))
    return tuple(shown)


def look(image: str, find: Find = Path) -> tuple[Image.Image | None, tuple[Box, ...], str]:
    """A picture of a run, the boxes that are known, and a label: `lab:SEED` is drawn, anything else is a file."""
    if image.startswith(LAB):
        return _scene(image)
    path = find(image)
    try:
        return None if path is None else open_picture(str(path)), (), Path(image).name
    except (OSError, ValueError):
        return None, (), Path(image).name


def _scene(image: str) -> tuple[Image.Image | None, tuple[Box, ...], str]:
    from grounddecode.lab.world import draw

    try:
        scene = draw(int(image.removeprefix(LAB)))
    except (ValueError, OverflowError):
        return None, (), image
    boxes = tuple(Box(thing.category, thing.bbox) for thing in scene.objects)
    return scene.image, boxes, f"scene {scene.seed} of the lab ({scene.scene})"
