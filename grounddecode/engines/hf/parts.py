"""Parts: pieces of the Hugging Face engine that each serve one need of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from grounddecode.calibration import known
from grounddecode.engines.hf.generation import Sequence as Sequences
from grounddecode.engines.hf.step import Step
from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.engines.hf.session import Session

Forward = Callable[[dict[str, Any]], Any]


class Part(Protocol):
    """A piece of the engine that serves one need: a second stream, token flags, gradients.

    What it knows of a sequence it keeps there (`Sequence.kept`): sequences may be advanced in turn.
    """

    def attach(self, session: Session) -> None:
        """Once, before anything runs. Raises ValueError for a model that it cannot serve."""
        ...

    def act(self, session: Session) -> None:
        """Put hooks in place for one `generate` call, or one forward by hand, by `session.hook` and its like."""
        ...

    def begin(self, step: Step) -> None:
        """Before every forward pass."""
        ...

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        """Around every forward pass: call `forward(kwargs)` and return its output, changed or not."""
        ...

    def finish(self, sequences: Mapping[Any, Sequences]) -> None:
        """After a `generate` call, and when a block ends, with the sequences by their caches."""
        ...


def parts_for(methods: Iterable[Method]) -> tuple[Part, ...]:
    """The parts that the methods' needs ask for, outermost first."""
    methods = tuple(methods)
    parts: list[Part] = []
    streams = [m for m in methods if Needs.SECOND_STREAM in m.active_needs()]
    if len(streams) > 1:
        raise ValueError(f"{streams[0].name} and {streams[1].name} both need a second stream, use one of them")
    if streams:
        from grounddecode.engines.hf.stream.second import SecondStream

        parts.append(SecondStream(streams[0]))
    flagging = [m for m in methods if Needs.TOKEN_FLAGS in m.active_needs()]
    if len(flagging) > 1:
        raise ValueError(f"{flagging[0].name} and {flagging[1].name} both flag tokens, use one of them")
    if flagging:
        from grounddecode.engines.hf.watch.flags import TokenFlags

        parts.append(TokenFlags(flagging[0]))
    looking = [m for m in methods if Needs.VISION_ATTENTION in m.active_needs()]
    if looking:
        from grounddecode.engines.hf.watch.vision import VisionAttention

        parts.append(VisionAttention(looking[0].name))
    judging = [m for m in methods if Needs.CANDIDATES in m.active_needs()]
    if judging:
        from grounddecode.engines.hf.saliency.candidates import Rejection

        parts.append(Rejection(judging[0], methods))
    return tuple(parts)


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
