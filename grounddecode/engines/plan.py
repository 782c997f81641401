"""Which methods edit which attention layer: fixed when methods are bound to a model, the same for every engine."""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from grounddecode.method import Method, Needs


@dataclass(frozen=True)
class LayerPlan:
    """What happens in one attention layer. Layers of equal edits share the tuple."""

    layer: int
    edits: tuple[Method, ...]
    gains_only: bool
    kept: dict[Hashable, Any] = field(default_factory=dict, compare=False)  # what an engine keeps for all layers

    @functools.cached_property
    def grouped(self) -> Method | None:
        """The one edit of the layer, if it scales groups of keys."""
        return self.edits[0] if len(self.edits) == 1 and self.edits[0].groups else None

    @functools.cached_property
    def sloped(self) -> Method | None:
        """The one edit of the layer, if it has two slopes a key."""
        return self.edits[0] if len(self.edits) == 1 and self.edits[0].is_sloped else None


_STATES = Needs.HIDDEN_EDIT | Needs.HIDDEN_READ | Needs.IMAGE_FEATURES | Needs.PROBE | Needs.PIXELS
_INSIDE = {
    _STATES: "works on hidden states or pixels inside of the model",
    Needs.OTHER_INPUTS: "reads a second prompt inside of the model",
    Needs.KEY_SETS: "chooses the keys of a second stream within each forward pass",
}
HF_ONLY = functools.reduce(operator.or_, _INSIDE)
"""What engine hf alone offers."""


def hf_only(methods: Sequence[Method]) -> str | None:
    """Why other engines than hf refuse these methods, in one sentence; None if they need not."""
    found = (f"{m.name} {what}" for m in methods for needs, what in _INSIDE.items() if needs & m.active_needs())
    return next((f"{what}: use engine hf" for what in found), None)


def plan_layers(methods: Sequence[Method], layers: Iterable[int], n_layers: int) -> dict[int, LayerPlan]:
    """The plan of every layer: the methods whose edit acts on it."""
    editing = [m for m in methods if Needs.ATTENTION_EDIT in m.active_needs()]
    plans: dict[int, LayerPlan] = {}
    shared: dict[tuple[Method, ...], tuple[Method, ...]] = {}
    kept: dict[Hashable, Any] = {}
    for layer in layers:
        acting = tuple(m for m in editing if m.acts_on(layer, n_layers))
        edits = shared.setdefault(acting, acting)
        plans[layer] = LayerPlan(layer, edits, bool(edits) and all(m.is_key_gain for m in edits), kept)
    return plans


def gradient_layers(method: Method, n_layers: int) -> tuple[int, ...]:
    """The layers, ascending, in which a method sees saliency of candidates. Raises ValueError for one there is not."""
    return method.reads(n_layers).saliency if Needs.CANDIDATES in method.active_needs() else ()


def first_query(methods: Iterable[Method], prompt_length: int, image_end: int) -> int:
    """Position of the first token of a request that an edit of any of the methods concerns."""
    last = prompt_length - 1
    return min(last, image_end + 1) if any(m.rows == "after_image" for m in methods) else last


def refusal(methods: Sequence[Method]) -> str | None:
    """Why these methods cannot act together, in one sentence; None if they can."""
    for need, what in (
        (Needs.SECOND_STREAM, "need a second stream"),
        (Needs.TOKEN_FLAGS, "flag tokens"),
        (Needs.CANDIDATES, "decide on the next token"),
    ):
        wanting = [m for m in methods if need in m.active_needs()]
        if len(wanting) > 1:
            return f"{wanting[0].name} and {wanting[1].name} both {what}, use one of them"
    graded = [m for m in methods if Needs.GRADIENT in m.active_needs()]
    steering = [m for m in methods if Needs.HIDDEN_EDIT in m.active_needs()]
    if graded and steering:
        return (
            f"{graded[0].name} takes gradients through layers whose hidden states {steering[0].name} changes, use one "
            "of them"
        )
    judging = [m for m in methods if Needs.CANDIDATES in m.active_needs()]
    deciding = [m for m in methods if (Needs.LOGITS | Needs.SECOND_STREAM) & m.active_needs()]
    if judging and deciding:
        return (
            f"{judging[0].name} and {deciding[0].name} both decide on the next token, use one of them "
            f"({judging[0].name} composes with attention edits)"
        )
    return None
