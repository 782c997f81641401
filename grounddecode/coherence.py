"""Coherence: how salient the text behind the image is for a token, and in which layers that is looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from grounddecode.maths import masked_mean, unit_rows

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

NOT_THERE = -1.0  # saliency, which is no less than 0, at keys that a row may not look at

Layers = tuple[int, ...] | Literal["auto", "released"]


def target_layers(layers: Layers, n_layers: int, who: str) -> tuple[int, ...]:
    """Target layers of a decoder of `n_layers` layers, 0-based and ascending.

    `auto`: from half to three quarters of the depth; `released`: 6 to 8 of 32, scaled.

    Raises:
        ValueError: a layer that the decoder has not, or another name, said in the name of `who` asked.
    """
    if layers == "auto":
        return tuple(range(n_layers // 2, max(n_layers // 2 + 1, 3 * n_layers // 4)))
    if layers == "released":
        return tuple(range(6 * n_layers // 32, max(6 * n_layers // 32 + 1, 9 * n_layers // 32)))
    if isinstance(layers, str) or not layers:
        raise ValueError(f"{who}: layers is {layers!r}, give layer numbers, auto or released")
    numbers = tuple(sorted({int(layer) for layer in layers}))
    if not 0 <= numbers[0] <= numbers[-1] < n_layers:
        raise ValueError(f"{who}: layers is {layers}, this model has layers 0 to {n_layers - 1}")
    return numbers


def salient_rows(saliency: Tensor) -> Tensor:
    """Rows (..., T) of saliency divided by their l2 norms, 0 at keys that are not there."""
    return unit_rows(saliency.masked_fill(saliency == NOT_THERE, 0.0))


def coherence(saliency: Tensor, step: StepView, first: int | Tensor = 0) -> Tensor:
    """(R, K): salience of the text behind the image, the row's own key included; mean of its keys, then of the layers.

    Args:
        saliency: (layers, R, K, T), as in `StepView.saliency`.
        first: position from which on keys count, one for all rows or (R, 1) long.

    Returns:
        NaN for rows without such a key.
    """
    keys, own = step.keys, step.queries[:, None]
    behind = (keys > step.image_end[:, None]) & (keys >= first) & (keys <= own)
    behind = behind & (saliency[:, :, 0] != NOT_THERE)
    return masked_mean(salient_rows(saliency), behind[:, :, None]).mean(dim=0)
