"""The parts of the Hugging Face engine that methods ask for, and which methods a session is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from grounddecode.calibration import known
from grounddecode.engines.hf.part import Forward, Part
from grounddecode.engines.plan import refusal
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.engines.hf.step import Step


def parts_for(methods: Iterable[Method]) -> tuple[Part, ...]:
    """The parts that the methods' needs ask for, outermost first. Raises ValueError for methods that exclude others."""
    methods = tuple(methods)
    reason = refusal(methods)
    if reason is not None:
        raise ValueError(reason)
    parts: list[Part] = []
    for need, make in _PARTS.items():
        wanting = [m for m in methods if need & m.active_needs()]
        if wanting:
            parts.append(make(wanting))
    return tuple(parts)


def _second_stream(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.stream.second import SecondStream

    return SecondStream(methods[0])


def _token_flags(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.flags import TokenFlags

    return TokenFlags(methods[0])


def _vision_attention(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.vision import VisionAttention

    return VisionAttention(methods[0].name)


def _image_features(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.features import ImageFeatures

    return ImageFeatures(methods[0].name)


def _rejection(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.saliency.candidates import Rejection

    return Rejection(methods[0])


def _hidden_states(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.hidden import HiddenStates

    return HiddenStates(methods)


def _memory(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.memory import Memory

    return Memory(methods)


def _probe(methods: Sequence[Method]) -> Part:
    from grounddecode.engines.hf.watch.probe import Probing

    return Probing(methods)


_PARTS = {
    Needs.MEMORY: _memory,  # outermost: it sees the logits of the rows of `generate`, once they are all there
    Needs.SECOND_STREAM: _second_stream,
    Needs.TOKEN_FLAGS: _token_flags,
    Needs.VISION_ATTENTION: _vision_attention,
    Needs.IMAGE_FEATURES: _image_features,
    Needs.CANDIDATES: _rejection,
    Needs.HIDDEN_EDIT | Needs.HIDDEN_READ: _hidden_states,  # innermost: what the others do needs what it reads
    Needs.PROBE: _probe,  # more so: what it runs aside is the bare model
}


def through(part: Part, step: Step, forward: Forward, kwargs: dict[str, Any]) -> Any:
    return part.run(step, kwargs, forward)


def refuse_twice(methods: Sequence[Method], layers: Iterable[int], n_layers: int) -> None:
    """A method given twice would edit twice; one method on some layers, and again on others, is meant."""
    for number, method in enumerate(methods):
        for other in methods[:number]:
            both = [x for x in layers if method.acts_on(x, n_layers) and other.acts_on(x, n_layers)]
            if type(other) is type(method) and both:
                raise ValueError(
                    f"{method.name} was given twice for layer {min(both)}, give it once with the settings you mean"
                )


def calibrated(
    model: PreTrainedModel, methods: Sequence[Method], calibration: Calibration | None
) -> tuple[Method, ...]:
    """The methods that do something, with what is known of the checkpoint filled in."""
    if calibration is None:
        calibration = known(model.config)
    else:
        calibration.check(model.config)
    return tuple(m.calibrated(calibration) for m in methods if not m.is_neutral())
