"""What a model is made for: how many positions its decoder knows, how many pixels its processor can use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_FINER = 2  # a JPEG is decoded at no less than twice the side in use: the processor's own resizing still decides


def positions(config: Any) -> int | None:
    """Positions of the decoder, stretched where its rotary positions are; None where the configuration says nothing."""
    text = config.get_text_config(decoder=True)
    made_for = getattr(text, "max_position_embeddings", None)
    if not isinstance(made_for, int):
        return None
    rotary = getattr(text, "rope_parameters", None) or {}
    before, factor = rotary.get("original_max_position_embeddings"), rotary.get("factor")
    if isinstance(before, int) and isinstance(factor, int | float):
        return max(made_for, int(before * factor))
    return made_for


def sufficient_side(image_processor: Any) -> int | None:
    """Pixels of a picture's shorter side that are enough; None where the processor takes pictures as they come.

    From the sides that its settings name, the largest; settings that bound the number of pixels name none.
    """
    if getattr(image_processor, "do_resize", None) is not True:
        return None
    if any(getattr(image_processor, name, None) for name in ("min_pixels", "max_pixels", "max_patches")):
        return None
    found = [*_sides(getattr(image_processor, "size", None))]
    for pair in getattr(image_processor, "image_grid_pinpoints", None) or ():
        found += [int(side) for side in pair]
    return _FINER * max(found) if found else None


def _sides(size: Any) -> Iterator[int]:
    sides = dict(size) if isinstance(size, Mapping) or hasattr(size, "keys") else {}
    if "longest_edge" in sides and "shortest_edge" in sides:  # Qwen-VL names numbers of pixels so
        return
    yield from (int(side) for side in sides.values() if side)
