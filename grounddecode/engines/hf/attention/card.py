"""Decode steps on a card under one edit that scales groups of keys or has two slopes a key, or gains: by our kernels.

A step of one token is bound by what the host launches, not by what the card computes. `attend` takes this way where it
can be had: keys in a contiguous cache on CUDA, Triton at hand, no gradient, nothing recorded.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Hashable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.grouped.merge import HIDDEN, merged
from grounddecode.engines.grouped.replay import PAYS_FROM, Replay
from grounddecode.engines.hf.attention.gains import coming_gains
from grounddecode.engines.hf.attention.ways import Way, is_dense
from grounddecode.engines.hf.transformers_names import SOFT_CAP, WANTS_WEIGHTS, WINDOW
from grounddecode.method import Needs

if TYPE_CHECKING:
    from grounddecode.engines.grouped.kernel import PartialAttention
    from grounddecode.engines.grouped.sloped import SlopedAttention
    from grounddecode.engines.hf.attention.call import Call, Output
    from grounddecode.engines.hf.attention.ways import Act
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan
    from grounddecode.method import Method
    from grounddecode.view import StepView

Parts = tuple[Tensor, Tensor, Tensor]  # what `merged` is given


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def by_kernel(call: Call, plan: LayerPlan, step: Step) -> Way | None:
    """How a call of the newest tokens of answers goes by a kernel; None: not so."""
    if not _can_go(call, step):
        return None
    if plan.gains_only:
        return Way(_raised(plan, call, step), call, dense=True)
    if plan.sloped is not None:
        return Way(_sloped(plan.sloped, call, step), call, dense=True)
    if plan.grouped is not None and _pays(plan.grouped, call, plan, step):
        return Way(_Grouped(plan.grouped, call, plan, step), call, dense=True)
    return None


def _can_go(call: Call, step: Step) -> bool:
    """Whether keys and values are as the kernels read them, and every row is edited."""
    options = call.options
    return (
        on_card(call.key)
        and step.sequence.all_see
        and is_dense(call)
        and options.get(SOFT_CAP) is None
        and not options.get(WANTS_WEIGHTS)
        and _reads_its_mask(call, step)
    )


def _pays(method: Method, call: Call, plan: LayerPlan, step: Step) -> bool:
    """Whether a graph is there, or none is needed, or recording one pays."""
    if step.generated >= PAYS_FROM or _known(plan, call) in plan.kept:
        return True
    return method.factor_rule(call.query.shape[1]) is not None


def on_card(tensor: Tensor) -> bool:
    """Whether the kernels can be launched where it lies."""
    return tensor.is_cuda and _has_triton() and not torch.cuda.is_current_stream_capturing()


def _reads_its_mask(call: Call, step: Step) -> bool:
    """The newest token sees every key there is, or a mask says which; no mask that adds to scores."""
    if call.mask is None:
        return call.key.shape[2] <= min(step.total, call.options.get(WINDOW) or step.total)
    return call.mask.dim() == 4 and call.mask.shape[1] == 1 and call.mask.dtype == torch.bool


def _hidden(call: Call) -> Tensor | None:
    """(B, T) bool: what the mask hides from the newest token."""
    return None if call.mask is None else ~call.mask[:, 0, -1, : call.key.shape[2]]


def _at_keys(what: Callable[[StepView], Tensor], method: Method, call: Call, step: Step) -> Tensor:
    """(..., T): what a method says of each key of this call, worked out once for all columns there is room for."""
    keys, device = call.key.shape[2], call.key.device
    first = max(0, step.total - keys)
    columns = step.sequence.columns(first + keys, device)
    known = what.__name__, id(method)
    if known not in columns.kept:
        columns.kept[known] = what(step.view(0, 1, columns.positions.shape[0], device))
    return columns.kept[known][..., first : first + keys]


def _sloped(method: Method, call: Call, step: Step) -> Act:
    """One launch a layer: `engines.grouped.sloped`."""
    from grounddecode.engines.grouped.sloped import SlopedAttention

    slopes, hidden = _at_keys(method.key_slopes, method, call, step), _hidden(call)
    slopes = slopes if hidden is None else slopes.masked_fill(hidden[:, None], -1.0)
    return _by(SlopedAttention(call.query, call.key, slopes, call.scaling))


def _raised(plan: LayerPlan, call: Call, step: Step) -> Act:
    """The same, of edits that are factors on keys: beside their logarithms in a mask, attention costs the host more."""
    from grounddecode.engines.grouped.sloped import SlopedAttention

    logs, hidden = coming_gains(plan, step, call.key.shape[2], call.key.device)[:, 0].float(), _hidden(call)
    logs = logs if hidden is None else logs.masked_fill(hidden[:, None], -torch.inf)
    return _by(SlopedAttention(call.query, call.key, logs, call.scaling, raised=True))


def _by(attention: SlopedAttention) -> Act:
    """Edited output (B, 1, H, D)."""
    return lambda call, *_: (attention(call.query, call.key, call.value), None)


class _Grouped:
    """Two launches a layer, in place of twenty: `engines.grouped`."""

    def __init__(self, method: Method, call: Call, plan: LayerPlan, step: Step) -> None:
        from grounddecode.engines.grouped.kernel import PartialAttention

        self._parts, self._merge = _merge(method, call, plan)
        labels, hidden = _at_keys(method.key_groups, method, call, step), _hidden(call)
        self._labels = labels if hidden is None else labels.masked_fill(hidden, HIDDEN)
        self._flagged = Needs.TOKEN_FLAGS in method.needs()
        self._make = functools.partial(
            PartialAttention, call.query, call.key, self._labels, self._flagged, call.scaling, self._parts
        )
        self._whole = call.key.shape[2] == step.total
        self._attention: PartialAttention | None = None  # of keys whose flags are known
        self._noting: PartialAttention | None = None  # of keys but the newest, whose tokens have this dtype
        self._dtype: torch.dtype | None = None

    def __call__(self, call: Call, _: Any, plan: LayerPlan, step: Step) -> Output:
        """Edited output (B, 1, H, D)."""
        if not (self._flagged and self._whole and self._noted(call, plan, step)):
            if self._attention is None:
                self._attention = self._make()
            flags = _flags(step, plan, call) if self._flagged else None
            self._attention(call.query, call.key, call.value, flags)
        return self._merge(call.query), None

    def _noted(self, call: Call, plan: LayerPlan, step: Step) -> bool:
        """Attention that finds out whether the newest token is flagged, where that is still to do."""
        room = step.sequence.rooms.get(plan.layer)
        if room is None or room.hidden is None or room.flags.device != call.key.device:
            return False  # a block may be given what lies on the device before
        hidden = room.hidden
        if self._noting is None:
            self._noting, self._dtype = self._make(newest=(room.bound, hidden)), hidden.dtype
        if hidden.dtype is not self._dtype:
            return False
        self._noting(call.query, call.key, call.value, room.flags, hidden)
        room.hidden = None
        return True


def _known(plan: LayerPlan, call: Call) -> Hashable:
    rows, heads, _, width = call.query.shape
    return "grouped", id(plan.grouped), rows, heads, width, call.query.dtype, call.query.device


def _merge(method: Method, call: Call, plan: LayerPlan) -> tuple[Parts, Callable[[Tensor], Tensor]]:
    """What the kernel fills, and what follows it, (B, 1, H, D) in the dtype of a query; one a shape, for all layers."""
    from grounddecode.engines.grouped.kernel import splits_of
    from grounddecode.engines.grouped.merging import merging

    rows, heads, _, width = call.query.shape
    known = _known(plan, call)
    if known not in plan.kept:
        shape = (rows, heads, splits_of(rows, heads))
        sums, tops, masses = (
            torch.zeros(size, device=call.query.device)
            for size in ((*shape, method.groups, width), shape, (*shape, method.groups))
        )
        parts = sums, tops, masses
        plan.kept[known] = parts, merging(parts, method, call.query.dtype) or _replayed(parts, method)
    made: tuple[Parts, Callable[[Tensor], Tensor]] = plan.kept[known]
    return made


def _replayed(parts: Parts, method: Method) -> Callable[[Tensor], Tensor]:
    """The merge by a graph, for factors that no kernel knows."""
    graph = Replay(lambda sums, tops, masses: merged(sums, tops, masses, method.group_factors)[:, None], parts)
    # to another tensor in any case: the next layer's replay writes over this one
    return lambda query: graph().to(query.dtype, copy=True)


def _flags(step: Step, plan: LayerPlan, call: Call) -> Tensor:
    """(B, T) bool: the layer's token flags at the keys of this call."""
    keys = call.key.shape[2]
    known = step.sequence.flags_of(plan.layer)
    if known is None:
        raise RuntimeError(f"layer {plan.layer} has no token flags")
    if known.shape[1] == keys == step.total and known.device == call.key.device:
        return known
    known = known.to(call.key.device)
    offset = max(0, step.total - keys)
    flags = known[:, offset : offset + keys]
    return flags if flags.shape[1] == keys else nn.functional.pad(flags, (0, keys - flags.shape[1]))
