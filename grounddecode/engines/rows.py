"""Edited attention rows: from scores and a view of them to weights. What every engine does once it has the scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.composition import apply_edits

if TYPE_CHECKING:
    from grounddecode.engines.plan import LayerPlan
    from grounddecode.view import StepView


def edited_rows(scores: Tensor, view: StepView, plan: LayerPlan) -> Tensor:
    """Attention weights (B, H, q, T), float32, of queries under the plan's edits.

    Args:
        scores: (B, H, q, T) float32, scaled, -inf on masked keys.
        view: of the B * q rows, batch-major; with the token flags of the layer where an edit asks for them.
    """
    batch, heads, count, keys = scores.shape
    if not plan.edits:
        return torch.softmax(scores, dim=-1)
    if count == 1:
        return apply_edits(plan.edits, scores.squeeze(2), view, plan.layer).unsqueeze(2)
    flat = scores.transpose(1, 2).reshape(batch * count, heads, keys)
    weights = apply_edits(plan.edits, flat, view, plan.layer)
    return weights.view(batch, count, heads, keys).transpose(1, 2)


def log_gains(view: StepView, plan: LayerPlan) -> Tensor:
    """(R, heads or 1, T): what a plan of nothing but gains adds to the scores, 0 on rows it does not concern."""
    total: Tensor | None = None
    for method in plan.edits:
        gain = method.key_gain(view)
        if gain is not None:
            log = gain.log() if view.every_row else torch.where(view.rows(method.rows)[:, None, None], gain.log(), 0.0)
            total = log if total is None else total + log
    if total is None:
        raise RuntimeError("no edit of this layer is a gain on keys")
    return total


def concerned(view: StepView, plan: LayerPlan) -> Tensor:
    """Bool (R,): rows that any edit of the plan concerns."""
    return torch.stack([view.rows(method.rows) for method in plan.edits]).any(dim=0)


def image_row(weights: Tensor, image: Tensor) -> Tensor:
    """(B, T): attention of one query (B, H, T), averaged over heads, 0 off the image (B, T)."""
    return weights.mean(dim=1) * image


def finite(given: Tensor) -> Tensor:
    """With 0 for what is infinite or no number: a factor of 0 on a neighbour's key does not hide those."""
    return given.nan_to_num(0.0, 0.0, 0.0)
