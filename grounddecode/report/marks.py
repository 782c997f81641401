"""Which words of a caption name an object, and whether the picture has it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounddecode.evaluate.language.tokens import words
from grounddecode.evaluate.scoring.chair import PATTERN, mentions

if TYPE_CHECKING:
    from grounddecode.evaluate.scoring.chair_words import Mention

Span = tuple[int, int]


@dataclass(frozen=True)
class Mark:
    """Characters `start` to `stop` of a caption name `object`; `real` says whether the ground truth has it."""

    start: int
    stop: int
    object: str
    real: bool


def mark(caption: str, present: Collection[str], flavour: str = PATTERN) -> list[Mark]:
    """The words that CHAIR counts, where they stand in the caption, in order.

    Args:
        present: COCO categories that the picture has.
        flavour: whose words, see `grounddecode.evaluate.scoring.chair`.
    """
    spans = token_spans(caption)
    found: list[Mark] = []
    for mention in mentions(caption, flavour):
        span = _span(caption, mention, spans, flavour)
        if span is not None and (not found or span[0] >= found[-1].stop):
            found.append(Mark(*span, mention.object, mention.object in present))
    return found


def token_spans(caption: str) -> list[Span | None]:
    """Where each of the scorer's tokens stands; None for one that the tokeniser has rewritten (quotation marks)."""
    lower = caption.lower()
    spans: list[Span | None] = []
    at = 0
    for token in words(lower):
        start = lower.find(token, at)
        spans.append(None if start < 0 else (start, start + len(token)))
        at = at if start < 0 else start + len(token)
    return spans


def _span(caption: str, mention: Mention, spans: list[Span | None], flavour: str) -> Span | None:
    """The token of a mention, and the next one too where it takes both to name the object."""
    first = spans[mention.position] if mention.position < len(spans) else None
    second = spans[mention.position + 1] if mention.position + 1 < len(spans) else None
    if first is None:
        return None
    alone = [one.object for one in mentions(caption[slice(*first)], flavour)]
    if mention.object in alone or second is None:
        return first
    return first[0], second[1]
