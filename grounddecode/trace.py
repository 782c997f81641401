"""Trace: what the methods did at each step, for reports, pictures and debugging."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


# What is recorded only where it is asked for.
WANTED = frozenset({"tokens", "candidates", "image_mass", "head_mass", "image_attention", "kept", "sinks"})
#: Of the newest query's attention to the image.
LOOKS = frozenset({"image_mass", "head_mass", "image_attention"})
#: What comes with candidates.
BESIDE = frozenset({"log_probs", "judged", "turned_down", "judged_by"})
#: One column a candidate, best first.
RANKED = frozenset({"candidates", "log_probs"})
LARGE = WANTED | BESIDE  # entries of these are no numbers to be averaged


@dataclass(frozen=True)
class Event:
    """One value of one step: `what` (e.g. "image_mass"), `method`, `layer` (or None), `value` (rows, ...)."""

    step: int
    method: str
    what: str
    value: Tensor
    layer: int | None = None


class Recorder(Protocol):
    """What methods' doings are told to: a `Trace`, or several."""

    want: AbstractSet[str]
    top: int

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None:
        """Take one tensor of one step; `what` is one of those in `want`."""
        ...


def takes(recorder: Recorder, what: str) -> bool:
    """Whether a recorder is told such a quantity: what is large only where it is wanted."""
    return what not in LARGE or ("candidates" if what in BESIDE else what) in recorder.want


@dataclass(frozen=True)
class StepTrace:
    """What one step did, row by row; what was not wanted or did not happen is empty.

    candidates: the most probable next tokens by whose logits they are, in the order in which they came about: "model",
        then of each method its second stream ("avc.second") and what it left ("avc"); each (rows, top) long.
    log_probs: (rows, top) of the same.  kept: (rows, prompt) bool by method: image tokens its second stream sees (the
        blind ones of AvisC); in the step that read the prompt.
    tokens: (rows,) long, the newest token the step read: the prompt's last one, then those of the answer; None: not
        wanted.
    judged: (rows, K) long by method: the candidates that a method looked at.  turned_down: (rows, K) bool: those it
        would not have.  judged_by: (rows, K) what it compared them by; NaN: nothing. They come with candidates.
    image_mass: (rows,) by layer: weight of the newest query on the image, after all edits, averaged over heads.
    head_mass: (rows, heads) by layer: the same of each head.  image_attention: (rows, keys) by layer: the weights
        themselves, averaged over heads, 0 off the image; column j is position j of the padded row.
    sinks: (rows, tokens) bool by layer: what `flag_tokens` said of every token so far.
    told: (rows,) by method and quantity: `{"sgrs.rejected": ..., "avc.contrast": ...}`.
    """

    step: int
    candidates: Mapping[str, Tensor]
    log_probs: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    told: Mapping[str, Tensor]
    tokens: Tensor | None
    image_mass: Mapping[int, Tensor]
    sinks: Mapping[int, Tensor]
    judged: Mapping[str, Tensor] = field(default_factory=dict)
    turned_down: Mapping[str, Tensor] = field(default_factory=dict)
    judged_by: Mapping[str, Tensor] = field(default_factory=dict)
    head_mass: Mapping[int, Tensor] = field(default_factory=dict)
    image_attention: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def moved(self) -> tuple[str, ...]:
        """Methods behind which a row's best token is another than before."""
        own = [(whose, tokens[:, 0]) for whose, tokens in self.candidates.items() if not whose.endswith(".second")]
        pairs = itertools.pairwise(own)
        return tuple(whose for (_, before), (whose, after) in pairs if not before.equal(after))


@dataclass
class Trace:
    """Recorder that an engine fills when it is given one: `ground(model, AvisC(), trace=Trace())`.

    Tensors are detached copies on the CPU, row-aligned with the batch. Recording costs a copy a value; without a trace
    nothing is computed for it. Methods with a second stream record the share of the image that it keeps (`kept_share`,
    once) and how far the streams are apart (`contrast`, each step: the mean distance of the log-probabilities of the
    tokens that pass the cut); SGRS records what it rejects.

    What is large comes only when it is wanted, see `StepTrace`: `Trace(want={"candidates", "kept"})`, then `steps()`.

    Args:
        want: of "tokens", "candidates", "image_mass", "head_mass", "image_attention", "kept" and "sinks".
        top: how many candidates.

    Raises:
        ValueError: something else is wanted.
    """

    want: AbstractSet[str] = frozenset()
    top: int = 5
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.want = frozenset(self.want)
        if self.want - WANTED:
            raise ValueError(f"a trace was asked for {', '.join(sorted(self.want - WANTED))}, it has {sorted(WANTED)}")

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None:
        """Keep one tensor of one step, as float32 on the CPU."""
        self.events.append(Event(step, method, what, value.detach().float().cpu(), layer))

    def clear(self) -> None:
        """Forget everything."""
        self.events.clear()

    def select(self, what: str, method: str | None = None) -> Iterator[Event]:
        """Events of one kind, in order."""
        return (e for e in self.events if e.what == what and method in (None, e.method))

    def summary(self) -> dict[str, float]:
        """Mean of every recorded quantity over steps, layers and rows: `{"avc.contrast": 1.3, ...}`.

        NaN stands for rows that a method had nothing to say of, such as answers that have ended, and is left out.
        """
        values: dict[str, list[float]] = defaultdict(list)
        for event in self.events:
            if event.what in LARGE:
                continue
            known = event.value[~event.value.isnan()]
            if known.numel():
                values[f"{event.method}.{event.what}"].append(float(known.mean()))
        return {name: sum(found) / len(found) for name, found in values.items()}

    def steps(self) -> list[StepTrace]:
        """What was recorded, step by step."""
        numbers = dict.fromkeys(event.step for event in self.events)
        return [_step(number, [event for event in self.events if event.step == number]) for number in numbers]

    def to_json(self) -> list[dict[str, Any]]:
        """All events as plain objects."""
        return [
            {"step": e.step, "method": e.method, "what": e.what, "layer": e.layer, "value": e.value.tolist()}
            for e in self.events
        ]


def _step(number: int, events: Sequence[Event]) -> StepTrace:
    def of(what: str) -> dict[str, Tensor]:
        return {event.method: event.value for event in events if event.what == what}

    def by_layer(what: str) -> dict[int, Tensor]:
        return {event.layer: event.value for event in events if event.what == what and event.layer is not None}

    tokens = next((event.value.long() for event in events if event.what == "tokens"), None)
    return StepTrace(
        step=number,
        candidates={whose: value.long() for whose, value in of("candidates").items()},
        log_probs=of("log_probs"),
        kept={method: value.bool() for method, value in of("kept").items()},
        told={f"{event.method}.{event.what}": event.value for event in events if event.what not in LARGE},
        tokens=tokens,
        image_mass=by_layer("image_mass"),
        sinks={layer: value.bool() for layer, value in by_layer("sinks").items()},
        judged={method: value.long() for method, value in of("judged").items()},
        turned_down={method: value.bool() for method, value in of("turned_down").items()},
        judged_by=of("judged_by"),
        head_mass=by_layer("head_mass"),
        image_attention=by_layer("image_attention"),
    )
