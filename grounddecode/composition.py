"""Composition: how the attention edits of several methods act together, in the one order that there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grounddecode.maths import renormalise

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.method import Method
    from grounddecode.view import StepView


def edit_attention(methods: Sequence[Method], scores: Tensor, step: StepView, layer: int) -> Tensor:
    """Scores to attention weights under several methods, in the one order that composition has.

    1. every `edit_scores`, in list order; 2. softmax; 3. every `key_gain` and `edit_weights`, in list order; 4. every
    `head_gain`, each made of the scores as they were given. A method touches only its own rows and layers.

    Args:
        scores: (R, heads, T) float32, -inf on masked keys.

    Returns:
        (R, heads, T) float32.
    """
    return apply_edits([m for m in methods if m.acts_on(layer, step.n_layers)], scores, step, layer)


def apply_edits(acting: Sequence[Method], scores: Tensor, step: StepView, layer: int) -> Tensor:
    """`edit_attention` of methods that are known to act on the layer."""
    given = scores
    for method in acting:
        scores = _on_rows(method, step, method.edit_scores(scores, step, layer), scores)
    weights = scores.softmax(dim=-1)
    for method in acting:
        weights = _on_rows(method, step, _edited_weights(method, weights, step, layer), weights)
    for method in acting:
        gain = method.head_gain(given, step, layer)
        if gain is not None:
            weights = _on_rows(method, step, weights * gain[..., None], weights)
    return weights


def _on_rows(method: Method, step: StepView, edited: Tensor, plain: Tensor) -> Tensor:
    """`edited` on the rows that the method concerns, `plain` on the others."""
    if edited is plain or step.every_row:
        return edited
    return edited.where(step.rows(method.rows)[:, None, None], plain)


def _edited_weights(method: Method, weights: Tensor, step: StepView, layer: int) -> Tensor:
    gain = method.key_gain(step)
    if gain is not None:
        weights = renormalise(weights * gain)
    return method.edit_weights(weights, step, layer)
