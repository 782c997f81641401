"""Cases of a run: a picture, its ground truth, and what every method said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounddecode.report.marks import Mark, mark

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.report.marks import Mention
    from grounddecode.report.overlay import Box


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
class Picture:
    """What is known about one picture: `objects` are the names that count as present."""

    image: Image.Image
    boxes: tuple[Box, ...]
    objects: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Case:
    """A picture and the captions of all methods, greedy first."""

    image_id: str
    image: Image.Image
    boxes: tuple[Box, ...]
    objects: tuple[str, ...]
    label: str
    said: tuple[Said, ...]


def captions(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """`{image_id: {method: caption}}` of the caption samples that did not fail, both in the order of the run."""
    found: dict[str, dict[str, str]] = {}
    for sample in samples:
        if sample["benchmark"] == "chair" and sample.get("status", "ok") == "ok":
            found.setdefault(str(sample["image_id"]), {})[sample["method"]] = sample["response"]
    return found


def choose(images: Sequence[str], count: int) -> list[str]:
    """`count` of the images, evenly spread over the run: nobody picked them."""
    if count >= len(images):
        return list(images)
    return [images[(2 * at + 1) * len(images) // (2 * count)] for at in range(count)]


def case(
    image_id: str, picture: Picture, said: Mapping[str, str], mentions: Callable[[str], Sequence[Mention]]
) -> Case:
    """One case; `mentions` is the scorer's own reading of a caption."""
    order = sorted(said, key=lambda method: method != "greedy")
    first = {said[method]: method for method in reversed(order)}
    shown = []
    for method in order:
        marks = tuple(mark(said[method], mentions(said[method]), picture.objects))
        named = {one.object for one in marks}
        missed = tuple(name for name in picture.objects if name not in named)
        same_as = first[said[method]] if first[said[method]] != method else ""
        shown.append(Said(method, said[method], marks, missed, same_as))
    return Case(image_id, picture.image, picture.boxes, picture.objects, picture.label, tuple(shown))
