"""Cases of a run: a picture, its ground truth, and what every method said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate.chair import PATTERN
from grounddecode.evaluate.samples import LAB, open_picture
from grounddecode.report.marks import Mark, mark
from grounddecode.report.overlay import Box

if TYPE_CHECKING:
    from PIL import Image


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

    `boxes` are empty where the run does not know them.
    """

    label: str
    image: Image.Image
    boxes: tuple[Box, ...]
    objects: tuple[str, ...]
    said: tuple[Said, ...]


def captions(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The caption records of each picture that did not fail, both in the order of the run."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["benchmark"] == "chair" and record.get("status", "ok") == "ok":
            found.setdefault(str(record["image_id"]), []).append(record)
    return found


def choose(images: Sequence[str], count: int) -> list[str]:
    """`count` of the images, evenly spread over the run: nobody picked them."""
    if count >= len(images):
        return list(images)
    return [images[(2 * at + 1) * len(images) // (2 * count)] for at in range(count)]


def case(records: Sequence[Mapping[str, Any]], flavour: str = PATTERN) -> Case:
    """One case from the caption records of one picture."""
    first = records[0]
    image, boxes, label = look(first["image"])
    objects = tuple(first["truth"])
    captions = {record["method"]: record["response"] for record in records}
    return Case(label, image, boxes, objects, said(captions, objects, flavour))


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


def look(image: str) -> tuple[Image.Image, tuple[Box, ...], str]:
    """A picture of a run, the boxes that are known, and a label: `lab:SEED` is drawn, anything else is a file."""
    if not image.startswith(LAB):
        return open_picture(image), (), Path(image).name
    from grounddecode.lab.world import draw

    scene = draw(int(image.removeprefix(LAB)))
    boxes = tuple(Box(thing.category, thing.bbox) for thing in scene.objects)
    return scene.image, boxes, f"scene {scene.seed} of the lab ({scene.scene})"
