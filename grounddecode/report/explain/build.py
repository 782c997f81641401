"""From step traces and a saliency record to one explained answer."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grounddecode import registry
from grounddecode.report.explain.account import Choice, HeatMap, Marked, Seen, Told
from grounddecode.report.explain.choices import choice_of
from grounddecode.report.explain.maps import heat_map, marked
from grounddecode.risk import RiskCalibration, WordRisk, mentions, read_words, risk_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from grounddecode.images.layout import ImageSpan
    from grounddecode.risk import Word
    from grounddecode.saliency.record import SaliencyRecord
    from grounddecode.trace import StepTrace


@dataclass(frozen=True)
class Answer:
    """What is known of one answer: row 0 of everything.

    Args:
        steps: of the answer.  plain: the plain model's at the same places; None: the answer is its own.
        record: saliency of the answer's tokens.  edits: methods that act inside the model, as one name.
        sizes: (width, height) of the pictures.  objects: what is in them; None: not known.
    """

    name: str
    steps: Sequence[StepTrace]
    plain: Sequence[StepTrace] | None
    record: SaliencyRecord
    edits: str
    tokenizer: Any
    sizes: Sequence[tuple[int, int]]
    objects: Collection[str] | None
    calibration: RiskCalibration | None = None

    @property
    def tokens(self) -> list[int]:
        return [int(token) for token in self.record.tokens[0]]

    @property
    def spans(self) -> list[ImageSpan]:
        return [span for span in self.record.layout.spans if span.row == 0]

    def text_of(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def told(answer: Answer, first: Answer | None = None) -> Told:
    """The answer explained; `first` is the one it is compared with."""
    text, words = read_words(answer.tokens, answer.text_of)
    risks = risk_of(answer.record, answer.tokenizer, answer.calibration)
    named = mentions(text, words)
    seen = tuple(
        _seen(answer, word, risk, n if mention is None else words.index(mention[1]))
        for n, ((word, mention), risk) in enumerate(zip(named, risks, strict=True))
    )
    shown = Told(answer.name, text, seen, tuple(_marked(answer)))
    return shown if first is None else replace(shown, differs=_differs(seen, answer.tokens, first.tokens))


def _seen(answer: Answer, word: Word, risk: WordRisk, lead: int) -> Seen:
    n, record = word.first, answer.record
    step, objects = answer.steps[n], answer.objects
    return Seen(
        word=word,
        risk=risk,
        chance=float(record.log_probs[0, n].exp()),
        shares=dict(zip(record.sources, record.shares[0, n].tolist(), strict=True)),
        real=None if objects is None or risk.object is None else risk.object in objects,
        lead=lead,
        maps={
            "attention": _maps(answer, _mean(step.image_attention)),
            "saliency": _maps(answer, _shares_of_keys(record.maps[n][0])),
        },
        heads=_heads(step.head_mass),
        choice=_choice(answer, n),
    )


def _maps(answer: Answer, row: Tensor | None) -> tuple[HeatMap | None, ...]:
    return tuple(
        None if row is None else heat_map(span, row, size)
        for span, size in zip(answer.spans, answer.sizes, strict=True)
    )


def _mean(by_layer: Mapping[int, Tensor]) -> Tensor | None:
    """Row 0 of all layers, averaged."""
    rows = [value[0] for value in by_layer.values()]
    return sum(rows[1:], rows[0]) / len(rows) if rows else None


def _shares_of_keys(row: Tensor) -> Tensor:
    return row / row.sum()


def _heads(by_layer: Mapping[int, Tensor]) -> NDArray[np.float32]:
    import numpy as np

    return np.stack([by_layer[layer][0].float().numpy() for layer in sorted(by_layer)])


def _choice(answer: Answer, n: int) -> Choice:
    def text_of(token: int) -> str:
        return str(answer.tokenizer.decode([token]))

    plain = None if answer.plain is None else answer.plain[n]
    return choice_of(answer.steps[n], plain, answer.edits, answer.tokens[n], text_of)


def _marked(answer: Answer) -> Iterator[Marked]:
    """Image tokens that a second stream keeps, and those that were flagged, as the prompt was read."""
    import torch

    step = answer.steps[0]
    for method, kept in step.kept.items():
        yield marked(_kept_by(method), kept[0], answer.spans, answer.sizes)
    if step.sinks:
        flagged = torch.stack([flags[0] for flags in step.sinks.values()]).any(dim=0)
        yield marked("sinks: flagged in some layer", flagged, answer.spans, answer.sizes)


def _kept_by(method: str) -> str:
    """What the marked tokens are, in the method's own words: blind, least attended."""
    which = (
        f", which {registry.method_class(method).summary}" if method in registry.names() else " in its second stream"
    )
    return f"kept by {method}{which}"


def _differs(words: Sequence[Seen], tokens: Sequence[int], others: Sequence[int]) -> int | None:
    """The first word with a token from which on two answers are not the same."""
    pairs = itertools.zip_longest(tokens, others)
    at = next((n for n, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
    return None if at is None else next((k for k, seen in enumerate(words) if seen.word.last >= at), None)
