"""What a model is made for: how many positions its decoder knows, how many pixels its processor can use."""

from __future__ import annotations

from typing import Any

from grounddecode.engines.hf.transformers_names import own_settings

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
    """Pixels of a picture's shorter side that are enough; None for processors that may use more of a larger picture.

    Known of those alone that have no settings of their own: those cut no tiles and count no pixels.
    """
    if getattr(image_processor, "do_resize", None) is not True or own_settings(image_processor) != frozenset():
        return None
    size = getattr(image_processor, "size", None)
    sides = [int(side) for side in dict(size).values() if side] if size is not None else []
    return _FINER * max(sides) if sides else None
