"""Image keys that the second stream sees in its upper layers, chosen within each forward pass by the layer below."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.engines.hf.attention.attend import visible, weights_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.decoder import Decoder
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan
    from grounddecode.method import Method

_MOST = 0.75  # of the keys: where more are seen, leaving out the others costs more than it saves


def require_keys(method: Method, decoder: Decoder) -> None:
    """Raise ValueError unless every layer that hides keys, and the one that chooses them, attends to the sequence."""
    attending = {layer.index for layer in decoder.layers if not layer.cross}
    others = sorted(set(range(method.keys_from - 1, decoder.n_layers)) - attending)
    if others:
        raise ValueError(
            f"{method.name}: layers {others} of {type(decoder.model).__name__} have no keys to hide image tokens "
            "among, use a model whose layers all attend to the sequence"
        )


@dataclass
class ChosenKeys:
    """What one forward pass does about them: the layer before `method.keys_from` chooses, those from it on hide.

    main: the step of the main rows, whose view the method is given. first: the first row of the second stream in this
    pass, before which nothing is hidden; None: all rows are main ones, and only the choice is made. keep: (rows of the
    second stream, tokens) bool, the image keys it sees; given where another pass has chosen. told: is shown the choice.
    """

    method: Method
    main: Step
    first: int | None = None
    keep: Tensor | None = None
    told: Callable[[Tensor, Tensor], None] | None = None
    _masks: dict[object, tuple[Tensor | None, Tensor]] = field(default_factory=dict)  # shared by layers of one kind
    _seen: dict[int, tuple[Tensor, Tensor] | None] = field(default_factory=dict)  # likewise, by such a mask

    def hides(self, layer: int) -> bool:
        return self.first is not None and layer >= self.method.keys_from

    def at(self, call: Call, plan: LayerPlan, step: Step) -> Call:
        """The call of one layer, with keys hidden where they are."""
        if call.query.shape[2] < step.length:
            step = step.tail(call.query.shape[2])
        if self.keep is None and plan.layer == self.method.keys_from - 1:
            self._choose(call, plan, step)
        return self._narrowed(call, step) if self.hides(plan.layer) else call

    def seen_by_any(self, call: Call) -> Call:
        """The same call for a prompt without the keys that no query of a row sees, where that leaves out many."""
        mask = call.mask
        if mask is None or self.first != 0 or call.query.shape[2] == 1:
            return call
        if id(mask) not in self._seen:
            self._seen[id(mask)] = _seen(mask)
        found = self._seen[id(mask)]
        if found is None:
            return call
        places, few = found
        key, value = (
            x.gather(2, places[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])) for x in (call.key, call.value)
        )
        return replace(call, key=key, value=value, mask=few)

    def _choose(self, call: Call, plan: LayerPlan, step: Step) -> None:
        """By the newest row: its weights after the edits of the layer, if another method has some there."""
        weights = weights_of(call, plan, step, step.length - 1, step.length)[self.first or 0 :, :, 0]
        keys, view = weights.shape[-1], self.main.last_view(weights.device)
        offset = max(0, step.total - keys)
        attention = weights.new_zeros(view.image.shape)
        attention[:, offset : offset + keys] = weights.mean(dim=1)[:, : step.total - offset]
        attention = attention * view.image
        self.keep = self.method.keep_keys(attention, view)
        if self.told is not None:
            self.told(self.keep, view.image)

    def _narrowed(self, call: Call, step: Step) -> Call:
        known = (id(call.mask), call.query.shape[2], call.key.shape[2], call.key.device, call.window)
        if known not in self._masks:  # the mask is kept beside what is made of it, so its id stays its own
            self._masks[known] = (call.mask, self._mask(call, step))
        return replace(call, mask=self._masks[known][1])

    def _mask(self, call: Call, step: Step) -> Tensor:
        """(rows, 1, queries, keys) bool, or additive where the kernel was given such a mask."""
        keys = call.key.shape[2]
        seen = visible(call, 0, step.length, step, call.key.device)
        allowed = seen & ~self._hidden(step, keys, call.key.device)[:, None, None, :]
        if step.length > 1:  # a row with nothing left sees itself
            view = step.view(0, 1, keys, call.key.device)
            own = view.keys == torch.arange(step.past, step.total, device=call.key.device)[:, None]
            allowed = allowed | (own & ~allowed.any(dim=-1, keepdim=True))
        if call.mask is None or call.mask.dim() != 4 or call.mask.dtype == torch.bool:
            return allowed
        low = torch.finfo(call.mask.dtype).min
        return call.mask[..., :keys].masked_fill(~seen, 0.0).masked_fill(~allowed, low)

    def _hidden(self, step: Step, keys: int, device: torch.device) -> Tensor:
        """(rows of this pass, keys) bool."""
        if self.keep is None or self.first is None:
            raise RuntimeError(f"{self.method.name}: no layer has chosen the keys that are kept")
        offset = max(0, step.total - keys)
        gone = (self.main.last_view(device).image & ~self.keep.to(device))[:, offset : offset + keys]
        hidden = gone.new_zeros(self.first + len(gone), keys)
        hidden[self.first :, : gone.shape[1]] = gone
        return hidden


def _seen(mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """Places (rows, keys left) of the keys that a row's queries see, and the mask of these; None: most are seen.

    mask: (rows, 1, queries, keys) bool.
    """
    seen = mask[:, 0].any(dim=1)
    most = int(seen.sum(dim=1).max())  # a host read for a prompt
    if mask.dtype != torch.bool or most > _MOST * seen.shape[1]:
        return None
    places = (~seen).int().argsort(dim=1, stable=True)[:, :most]
    return places, mask.gather(3, places[:, None, None].expand(-1, 1, mask.shape[2], -1))
