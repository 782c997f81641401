"""Gains on keys as logarithms, worked out for several decode steps at a time: they follow from positions alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounddecode.engines.hf.step import Step
from grounddecode.engines.rows import log_gains
from grounddecode.view import Phase

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from grounddecode.engines.plan import LayerPlan
    from grounddecode.view import StepView

_AHEAD = 16  # decode steps


def coming_gains(plan: LayerPlan, step: Step, keys: int, device: torch.device) -> Tensor:
    """(rows, queries, heads or 1, keys): the sum of the edits' logarithms, 0 on rows that an edit does not concern."""
    if step.phase is not Phase.DECODE or step.length > 1:
        return _logs(plan, step.view(0, step.length, keys, device), step)
    first = max(0, step.total - keys)
    known = step.sequence.columns(step.total, device).ahead
    begin, logs = known.get(id(plan.edits), (0, None))
    if logs is None or not begin <= step.past < begin + logs.shape[1] or logs.shape[-1] < first + keys:
        begin = step.past
        coming = Step(step.sequence, step.n_layers, begin, _AHEAD, step.kernel)
        logs = _logs(plan, coming.view(0, _AHEAD, max(coming.total, first + keys), device), coming)
        columns = step.sequence.columns(step.total, device)  # they may have been laid out anew
        columns.ahead[id(plan.edits)] = begin, logs
    at = step.past - begin
    return logs[:, at : at + 1, :, first : first + keys]


def _logs(plan: LayerPlan, view: StepView, step: Step) -> Tensor:
    """(rows, queries, heads or 1, keys)."""
    total = log_gains(view, plan)
    return total.view(step.sequence.rows, step.length, *total.shape[1:])
