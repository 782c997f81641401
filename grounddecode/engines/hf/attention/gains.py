"""Gains on keys as logarithms, worked out for several decode steps at a time: they follow from positions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.engines.hf.step import Step
from grounddecode.view import Phase

if TYPE_CHECKING:
    from grounddecode.method import Method
    from grounddecode.view import StepView

_AHEAD = 16  # decode steps


def log_gains(edits: Sequence[Method], step: Step, keys: int, device: torch.device) -> Tensor:
    """(rows, queries, heads or 1, keys): the sum of the edits' logarithms, 0 on rows that an edit does not concern."""
    if step.phase is not Phase.DECODE or step.length > 1:
        return _logs(edits, step.view(0, step.length, keys, device), step)
    first = max(0, step.total - keys)
    known = step.sequence.columns(step.total, device).ahead
    begin, logs = known.get(id(edits), (0, None))
    if logs is None or not begin <= step.past < begin + logs.shape[1] or logs.shape[-1] < first + keys:
        begin = step.past
        coming = Step(step.sequence, step.n_layers, begin, _AHEAD)
        logs = _logs(edits, coming.view(0, _AHEAD, max(coming.total, first + keys), device), coming)
        step.sequence.columns(step.total, device).ahead[id(edits)] = begin, logs  # they may have been laid out anew
    at = step.past - begin
    return logs[:, at : at + 1, :, first : first + keys]


def _logs(edits: Sequence[Method], view: StepView, step: Step) -> Tensor:
    """(rows, queries, heads or 1, keys)."""
    total: Tensor | None = None
    for method in edits:
        gain = method.key_gain(view)
        if gain is not None:
            log = gain.log() if view.every_row else torch.where(view.rows(method.rows)[:, None, None], gain.log(), 0.0)
            total = log if total is None else total + log
    if total is None:
        raise RuntimeError("no edit of this layer is a gain on keys")
    return total.view(step.sequence.rows, step.length, *total.shape[1:])
