"""Boxes and heat maps drawn over a picture, with pillow and numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Told apart by colour-blind eyes too (Okabe and Ito); black and yellow are left out, they vanish on most pictures.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2")

# Corners of a dark-to-light ramp whose lightness rises evenly, so that it reads the same in grey.
_RAMP = ((13, 8, 38), (92, 18, 110), (187, 55, 84), (249, 142, 9), (252, 255, 164))


#: x, y, width, height.
Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Box:
    """A labelled rectangle: `bbox` is x, y, width, height in pixels of the picture (the COCO convention)."""

    label: str
    bbox: Rectangle


def enlarge(image: Image.Image, width: int) -> Image.Image:
    """The picture as RGB at `width` pixels; small ones keep hard pixels, so that nothing is invented."""
    rgb = image.convert("RGB")
    height = max(1, round(rgb.height * width / rgb.width))
    small = width >= 2 * rgb.width
    return rgb.resize((width, height), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def draw_boxes(image: Image.Image, boxes: Sequence[Box], width: int | None = None) -> Image.Image:
    """A copy of the picture with its boxes outlined and named.

    Args:
        width: pixels of the result; default: that of the picture.
    """
    result = enlarge(image, width or image.width)
    scale = result.width / image.width
    pen = ImageDraw.Draw(result)
    text = font(max(11, result.width // 30))
    scaled = [Box(box.label, _scaled(box.bbox, scale)) for box in boxes]
    bounds = [pen.textbbox((0, 0), box.label, font=text) for box in boxes]
    tags = place_tags(scaled, [(right - left + 6, foot - top + 4) for left, top, right, foot in bounds], result.size)
    for number, box in enumerate(scaled):
        _outline(pen, box, PALETTE[number % len(PALETTE)], result.size)
    for number, (box, (left, top, wide, tall)) in enumerate(zip(boxes, tags, strict=True)):
        pen.rectangle((left, top, left + wide, top + tall), fill=PALETTE[number % len(PALETTE)])
        at = (left + 3 - bounds[number][0], top + 2 - bounds[number][1])
        pen.text(at, box.label, fill="black", font=text)
    return result


def place_tags(
    boxes: Sequence[Box], sizes: Sequence[tuple[float, float]], picture: tuple[float, float]
) -> list[Rectangle]:
    """Where the label of each box goes: above it, at its top, at its foot or below, from its left edge or to its right.

    The first place that covers no other label, and of those one that hides least of the other boxes: a label within
    the box of another thing reads as that thing's.

    Args:
        sizes: width and height of each label.  picture: width and height; labels stay inside.

    Returns:
        x, y, width, height of each label, in the order of the boxes.
    """
    placed: list[Rectangle] = []
    for box, (wide, tall) in zip(boxes, sizes, strict=True):
        x, y, w, h = box.bbox
        lefts = dict.fromkeys(max(0.0, min(left, picture[0] - wide)) for left in (x, x + w - wide))
        tops = [top for top in (y - tall, y, y + h - tall, y + h) if 0 <= top <= picture[1] - tall] or [0.0]
        places = [(left, top, wide, tall) for left in lefts for top in tops]
        others = [other.bbox for other in boxes if other is not box]
        placed.append(min(places, key=lambda place: (_covered(place, placed), _covered(place, others))))
    return placed


def _scaled(bbox: Rectangle, scale: float) -> Rectangle:
    x, y, w, h = bbox
    return x * scale, y * scale, w * scale, h * scale


def _covered(place: Rectangle, others: Sequence[Rectangle]) -> float:
    """How much of the others lies under a place, in square pixels."""
    return sum(_shared(place, other, 0) * _shared(place, other, 1) for other in others)


def _shared(one: Rectangle, other: Rectangle, axis: int) -> float:
    ends = min(one[axis] + one[axis + 2], other[axis] + other[axis + 2])
    return max(0.0, ends - max(one[axis], other[axis]))


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: str, size: tuple[int, int]) -> None:
    x, y, w, h = box.bbox
    right, bottom = min(x + w, size[0] - 1), min(y + h, size[1] - 1)
    pen.rectangle((x, y, right, bottom), outline="black", width=4)
    pen.rectangle((x + 1, y + 1, max(right - 1, x + 1), max(bottom - 1, y + 1)), outline=colour, width=2)


def draw_heat(image: Image.Image, scores: ArrayLike, opacity: float = 0.55, width: int | None = None) -> Image.Image:
    """A copy of the picture with a grid of scores laid over it, smallest dark, largest light.

    Args:
        scores: (h, w) finite numbers, row 0 at the top; stretched over the whole picture.
        opacity: of the colours, 0 to 1. Where all scores are equal there is nothing to show and it has no effect.
        width: pixels of the result; default: that of the picture.

    Raises:
        ValueError: scores that are no grid or not finite, or an opacity out of range.
    """
    grid = np.asarray(scores, dtype=np.float32)
    if grid.ndim != 2 or grid.size == 0 or not np.isfinite(grid).all():
        raise ValueError(f"scores have the shape {grid.shape}, give a grid (h, w) of finite numbers")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity is {opacity}, give a number between 0 and 1")
    base = enlarge(image, width or image.width)
    span = float(grid.max() - grid.min())
    if span == 0:
        return base
    level = Image.fromarray((grid - grid.min()) / span).resize(base.size, Image.Resampling.BICUBIC)
    return Image.blend(base, Image.fromarray(colours(np.asarray(level))), opacity)


def colours(levels: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """RGB bytes (..., 3) of levels between 0 and 1; what lies outside is clipped."""
    corners = np.asarray(_RAMP, dtype=np.float64)
    at = np.linspace(0, 1, len(corners))
    level = np.clip(levels, 0, 1)
    channels = [np.interp(level, at, corners[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface: the same on every machine."""
    return ImageFont.load_default(size)
