"""Running a model so that its answer can be explained: with and without methods, traced, and read once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grounddecode.method import Method, Needs
from grounddecode.report.explain.account import Account, Told
from grounddecode.report.explain.build import Answer, told
from grounddecode.risk import RiskCalibration, known_risk
from grounddecode.trace import Trace

if TYPE_CHECKING:
    from PIL import Image

    from grounddecode.engines.base import Decoding, Request
    from grounddecode.engines.hf.engine import HFEngine
    from grounddecode.report.overlay import Box

WANT = frozenset({"tokens", "candidates", "head_mass", "image_attention", "kept", "sinks"})
TOP = 40  # candidates that are kept of each step, so that one can be followed from stage to stage
LOW = 0.1  # share of words that are marked at first where nothing was calibrated
_DECIDES = Needs.LOGITS | Needs.SECOND_STREAM | Needs.CANDIDATES


def explain(
    engine: HFEngine,
    request: Request,
    decoding: Decoding,
    methods: Sequence[Method] = (),
    name: str = "",
    *,
    objects: Sequence[str] | None = None,
    boxes: Sequence[Sequence[Box]] = (),
    labels: Sequence[str] = (),
    calibration: RiskCalibration | None = None,
) -> Account:
    """Answer one request, without methods and with them, and say of every word where it comes from.

    Each answer is read once more by the plain model, and once more under the methods that edit attention, for the
    gradients: about four times the work of answering.

    Args:
        engine: the model.  name: how the methods are called together.
        objects: COCO categories that the pictures have; None: not known.  boxes, labels: of the pictures.
        calibration: of the risk; None: the one beside the checkpoint, if there is one.

    Raises:
        ValueError: beams, a prompt without pictures, or what the model, a method or a picture is refused for.
    """
    if decoding.num_beams > 1:
        raise ValueError(f"{decoding.num_beams} beams cannot be explained, set num_beams to 1")
    if not request.images:
        raise ValueError("a prompt without a picture was given, there is nothing to look at: give one")
    inputs, pictures = engine.inputs(request)
    calibration = calibration or known_risk(engine.model.config)
    known = {"objects": objects, "calibration": calibration, "sizes": [picture.size for picture in pictures]}
    first = _answer(engine, inputs, decoding, (), "plain model", known)
    answers = [told(first)]
    if methods:
        second = _answer(engine, inputs, decoding, methods, name, known)
        differing = told(first, second)
        answers = [replace(answers[0], differs=differing.differs), told(second, first)]
    return _account(engine, request, pictures, answers, first, known, boxes, labels)


def _answer(
    engine: HFEngine, inputs: Any, decoding: Decoding, methods: Sequence[Method], name: str, known: dict[str, Any]
) -> Answer:
    from grounddecode.saliency import record_saliency

    trace = Trace(want=WANT, top=TOP)
    tokens = engine.tokens(inputs, decoding, methods, trace)
    edits = [m for m in methods if not _DECIDES & m.active_needs() and m.active_needs()]
    layers = known["calibration"].layers if known["calibration"] else "auto"
    given: dict[str, Any] = {"layers": layers, "answer": tokens, "sizes": known["sizes"]}
    plain = Trace(want={"candidates"}, top=TOP) if methods else None
    record = record_saliency(engine.model, dict(inputs), trace=plain, **given)
    if edits:
        record = record_saliency(engine.model, dict(inputs), edits, calibration=engine.calibration, **given)
    return Answer(
        name=name,
        steps=trace.steps(),
        plain=None if plain is None else plain.steps(),
        record=record,
        edits="with " + "+".join(m.name for m in edits) if edits else "",
        tokenizer=engine.processor.tokenizer,
        **known,
    )


def _account(
    engine: HFEngine,
    request: Request,
    pictures: Sequence[Image.Image],
    answers: Sequence[Told],
    first: Answer,
    known: dict[str, Any],
    boxes: Sequence[Sequence[Box]],
    labels: Sequence[str],
) -> Account:
    calibration: RiskCalibration | None = known["calibration"]
    n = len(pictures)
    return Account(
        model=engine.model_name,
        prompt=request.prompt,
        pictures=tuple(pictures),
        labels=tuple(labels) or tuple(f"picture {i + 1}" for i in range(n)),
        boxes=tuple(tuple(one) for one in boxes) or ((),) * n,
        objects=None if known["objects"] is None else tuple(known["objects"]),
        told=tuple(answers),
        threshold=_threshold(answers, calibration),
        calibrated=calibration is not None,
        layers=first.record.layers,
        facts={key: str(value) for key, value in engine.describe().items()},
    )


def _threshold(answers: Sequence[Told], calibration: RiskCalibration | None) -> float:
    """Grounding at an even chance of being invented; without a calibration, what a tenth of the words do not reach."""
    if calibration is not None:
        return 1.0 - calibration.score_at(0.5)
    scores = sorted(seen.grounding for one in answers for seen in one.words)
    return scores[int(LOW * len(scores))] if scores else 0.0
