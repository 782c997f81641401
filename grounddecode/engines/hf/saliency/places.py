"""Where the keys of a layer lie in the sequence, and saliency put there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.coherence import NOT_THERE
from grounddecode.engines.hf.attention.attend import apply_mask

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.step import Step


@dataclass
class _Place:
    hidden: Tensor | None  # (B or 1, T) bool, keys that the last row may not look at; None: it sees them all
    keys: Tensor  # (T,) their positions
    heads: int
    mask: Tensor | None  # that it comes of: kept, so its id stays its own


class Places:
    """Those of some layers in one step. Layers under one mask share theirs."""

    def __init__(self) -> None:
        self._of: dict[int, _Place] = {}
        self._known: dict[tuple[object, ...], _Place] = {}

    def note(self, call: Call, layer: int, step: Step) -> None:
        """The keys of an attention call of the last row, in one layer."""
        (_, heads, _, _), count, device = call.query.shape, call.key.shape[2], call.key.device
        known = (id(call.mask), count, call.window, heads, device)
        if known not in self._known:
            last = step.length - 1
            nothing = torch.zeros(len(call.query), 1, 1, count, device=device)
            seen = apply_mask(nothing, call, last, step.length, step)
            hidden = None if seen is nothing else seen[:, 0, 0] != 0
            keys = step.view(last, step.length, count, device).keys
            self._known[known] = _Place(hidden, keys, heads, call.mask)
        self._of[layer] = self._known[known]

    def means(self, layers: Sequence[int], sums: Sequence[Tensor], total: int, device: torch.device) -> Tensor:
        """(layers, B, K, total) at the keys' positions, from sums (B, K, T) over the heads of each layer."""
        places = [self._of[layer] for layer in layers]
        if all(place is places[0] for place in places):
            return _on_sequence(places[0], torch.stack(list(sums)), total).to(device)
        pairs = zip(places, sums, strict=True)
        return torch.stack([_on_sequence(place, x, total).to(device) for place, x in pairs])


def _on_sequence(place: _Place, sums: Tensor, total: int) -> Tensor:
    """(..., B, K, total), from (..., B, K, T): a window has fewer keys, a static cache more."""
    values = sums / place.heads
    if place.hidden is not None:
        values = values.masked_fill(place.hidden[:, None], NOT_THERE)
    if values.shape[-1] == total:
        return values
    inside = place.keys < total
    whole = values.new_full((*values.shape[:-1], total), NOT_THERE)
    return whole.index_copy(-1, place.keys[inside], values[..., inside])
