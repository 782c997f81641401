"""Which words of a caption name an object, and whether the picture has it."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

# (surface words, object, position), as `evaluate.chair.mentions` gives them in the order of the caption.
Mention = tuple[str, str, int]


@dataclass(frozen=True)
class Mark:
    """Characters `start` to `stop` of a caption name `object`; `real` says whether the ground truth has it."""

    start: int
    stop: int
    object: str
    real: bool


def mark(caption: str, mentions: Sequence[Mention], present: Collection[str]) -> list[Mark]:
    """Where each mention stands in the caption, in order.

    Scorers see lower-case singular words, so a surface form is looked for with any ending a plural can have. A mention
    that is not found as text (its words were joined by the scorer) is left out: a wrong mark is worse than none.
    """
    found: list[Mark] = []
    at = 0
    for surface, name, _ in mentions:
        match = _pattern(surface).search(caption, at)
        if match is None:
            continue
        found.append(Mark(match.start(), match.end(), name, name in present))
        at = match.end()
    return found


def _pattern(surface: str) -> re.Pattern[str]:
    words = r"[\s-]+".join(re.escape(word) for word in surface.split())
    # leaf / leaves, city / cities, glass / glasses: the last letters may change where a plural is built.
    stem = re.sub(r"(fe|f|y)$", "", words)
    changed = f"|{stem}(?:ves|ies)" if stem != words else ""
    return re.compile(rf"\b(?:{words}(?:s|es|en)?{changed})\b", re.IGNORECASE)
