"""Trace: what the methods did at each step, for reports, pictures and debugging."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


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

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None: ...


@dataclass
class Trace:
    """Recorder that an engine fills when it is given one: `ground(model, AvisC(), trace=Trace())`.

    Tensors are detached copies on the CPU, row-aligned with the batch. Recording costs a copy a value; without a trace
    nothing is computed for it. Methods with a second stream record the share of the image that it keeps (`kept_share`,
    once) and how far the streams are apart (`contrast`, each step: the mean distance of the log-probabilities of the
    tokens that pass the cut); SGRS records what it rejects.
    """

    events: list[Event] = field(default_factory=list)

    def record(self, step: int, method: str, what: str, value: Tensor, layer: int | None = None) -> None:
        self.events.append(Event(step, method, what, value.detach().float().cpu(), layer))

    def clear(self) -> None:
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
            known = event.value[~event.value.isnan()]
            if known.numel():
                values[f"{event.method}.{event.what}"].append(float(known.mean()))
        return {name: sum(found) / len(found) for name, found in values.items()}

    def to_json(self) -> list[dict[str, Any]]:
        """All events as plain objects."""
        return [
            {"step": e.step, "method": e.method, "what": e.what, "layer": e.layer, "value": e.value.tolist()}
            for e in self.events
        ]
