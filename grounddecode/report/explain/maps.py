"""Heat maps of one token on the pictures, and places of image tokens, through the layout's tiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from grounddecode.report.explain.account import HeatMap, Marked

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.images.layout import ImageSpan
    from grounddecode.images.tiles import Tile

SMALLEST, LARGEST = 24, 72  # pixels of the longer side of a heat map; it is drawn larger, smoothly


def heat_map(span: ImageSpan, row: Tensor, size: tuple[int, int]) -> HeatMap | None:
    """Weights of a row of keys (T,) on one picture of (width, height) pixels; None where its tokens form no grid."""
    scores = row[list(span.positions)].float().numpy()
    try:
        levels = span.heatmap(scores, drawn_size(span, size))
    except ValueError:
        return None
    return HeatMap(np.nan_to_num(levels), float(scores.sum()))


def drawn_size(span: ImageSpan, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a heat map in the picture's proportions, with two pixels or more for each token."""
    finest = max((max(_finest(tile)) for tile in span.tiles), default=1.0)
    longer = min(LARGEST, max(SMALLEST, 2 * math.ceil(finest)))
    scale = longer / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _finest(tile: Tile) -> tuple[float, float]:
    """How many of its tokens would stand side by side over the whole picture, across and down."""
    left, top, right, bottom = tile.box or (0.0, 0.0, 1.0, 1.0)
    return tile.grid[1] / (right - left), tile.grid[0] / (bottom - top)


def marked(what: str, flags: Tensor, spans: Sequence[ImageSpan], sizes: Sequence[tuple[int, int]]) -> Marked:
    """The flagged image tokens (T,) bool of all pictures, where they have a place."""
    places = []
    for span, size in zip(spans, sizes, strict=True):
        chosen = zip(span.positions, span.places(size), strict=True)
        places.append(tuple(box for at, box in chosen if box is not None and bool(flags[at])))
    positions = [at for span in spans for at in span.positions]
    return Marked(what, tuple(places), int(flags[positions].sum()), len(positions))
