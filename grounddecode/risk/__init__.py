"""Risk: how likely each word of an answer is invented, told by how little it rests on the picture.

The score of a word is 1 minus the grounding of its first token (see `SaliencyRecord.grounding`), where the model
decides for the word. It is a detector, not a proof: on the lab's captions it tells invented objects from real ones with
an AUROC of .8 to .9. Where a `RiskCalibration` of the checkpoint exists, object words get a probability too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from grounddecode.report.marks import mark
from grounddecode.risk.calibration import RiskCalibration, known_risk
from grounddecode.risk.words import Word, read_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from grounddecode.coherence import Layers
    from grounddecode.saliency.record import SaliencyRecord

__all__ = ["RiskCalibration", "Word", "WordRisk", "known_risk", "mentions", "read_words", "risk_of", "word_risk"]


@dataclass(frozen=True)
class WordRisk:
    """One word: characters `start` to `stop` of the text.

    score: 1 - grounding of its first token, 0 to 1.  object: what it names of COCO's categories, or None.
    probability: that this object is not in the picture; None for other words, and without a calibration.
    """

    word: str
    start: int
    stop: int
    score: float
    object: str | None
    probability: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def word_risk(
    model: PreTrainedModel,
    processor: Any,
    inputs: dict[str, Any],
    answer: Tensor,
    calibration: RiskCalibration | None = None,
) -> list[WordRisk]:
    """The risk of every word of one answer, whoever gave it: the model reads it once more, with gradients.

        tokens = model.generate(**inputs, max_new_tokens=64)[:, inputs["input_ids"].shape[1]:]
        word_risk(model, processor, inputs, tokens)

    Args:
        model, processor: they say what the words rest on.  inputs: what the processor returned for one prompt.
        answer: (1, N) long, its tokens.
        calibration: of this checkpoint; None: the one beside it, if there is one.

    Raises:
        ValueError: several prompts, or a model whose saliency cannot be had.
    """
    from grounddecode.saliency import record_saliency

    if len(answer) != 1:
        raise ValueError(f"the risk of {len(answer)} answers was asked for, give one at a time")
    calibration = calibration or known_risk(model.config)
    layers: Layers = calibration.layers if calibration else "auto"
    record = record_saliency(model, inputs, layers=layers, answer=answer)
    return risk_of(record, processor.tokenizer, calibration)


def risk_of(
    record: SaliencyRecord, tokenizer: Any, calibration: RiskCalibration | None = None, row: int = 0
) -> list[WordRisk]:
    """The same from a saliency record, of one of its rows."""
    tokens = record.tokens[row].tolist()
    text, words = read_words(tokens, lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))
    scores = [1.0 - score for score in record.grounding[row].tolist()]
    return [
        WordRisk(word.text, word.start, word.stop, scores[word.first], *_named(mention, scores, calibration))
        for word, mention in mentions(text, words)
    ]


def mentions(text: str, words: Sequence[Word]) -> list[tuple[Word, tuple[str, Word] | None]]:
    """Every word with the object that it names, by CHAIR's words, and the first word of that name (traffic light)."""
    marks = mark(text, ())
    of_word = [next((m for m in marks if m.start < w.stop and w.start < m.stop), None) for w in words]
    first = {mark: word for word, mark in reversed(list(zip(words, of_word, strict=True)))}
    return [(word, (m.object, first[m]) if m else None) for word, m in zip(words, of_word, strict=True)]


def _named(
    mention: tuple[str, Word] | None, scores: Sequence[float], calibration: RiskCalibration | None
) -> tuple[str | None, float | None]:
    """The object, and the probability that it is invented: that of the name's first token."""
    if mention is None:
        return None, None
    named, first = mention
    return named, calibration.probability(scores[first.first]) if calibration else None
