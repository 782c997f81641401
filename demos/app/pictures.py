"""The picture of a visitor: a drawn scene, of which it is known what is in it, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from grounddecode.engines.images import open_image
from grounddecode.evaluate.sample import LAB
from grounddecode.report.cases import look
from grounddecode.report.overlay import Box

MOST = 25_000_000  # pixels: strangers send anything


@dataclass(frozen=True)
class Picked:
    """`objects` is None where it is not known what is in the picture."""

    image: Image.Image
    label: str
    source: str
    boxes: tuple[Box, ...] = ()
    objects: tuple[str, ...] | None = None


def scene(seed: int) -> Picked:
    """A scene of the lab. Raises ValueError where there is none."""
    image, boxes, label = look(f"{LAB}{seed}")
    if image is None:
        raise ValueError(f"there is no scene {seed}")
    return Picked(image, label, f"{LAB}{seed}", boxes, tuple(box.label for box in boxes))


def upload(path: str) -> Picked:
    """A visitor's file. Raises ValueError with the reason where it is no picture; where it lies is not said."""
    name = Path(path).name
    try:
        return Picked(open_image(Path(path), max_pixels=MOST), name, name)
    except ValueError as error:
        raise ValueError(str(error).replace(path, name)) from None
