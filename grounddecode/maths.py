"""Tensor formulas that several methods share; pure, vectorised over rows, never in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plausible_floor(logits: Tensor, beta: float) -> Tensor:
    """The lowest plausible logit of each row: that of a token `beta` times as probable as the best one.

    Args:
        logits: (rows, vocabulary), raw; log-probabilities give the same tokens.
        beta: in [0, 1]; 0 keeps every token, 1 only the most probable ones.

    Returns:
        (rows, 1). Source: the adaptive plausibility constraint of contrastive decoding (Li et al. 2023), as used by VCD
        (Eq. 4) and AvisC: `l >= ln(beta) + max l`.
    """
    return logits.amax(dim=-1, keepdim=True) + (math.log(beta) if beta > 0 else -math.inf)


def contrast(main: Tensor, other: Tensor, alpha: float, beta: float, rows: Tensor) -> Tensor:
    """`(1 + alpha) * main - alpha * other` on the plausible tokens of `main`, -inf on the others.

    Args:
        main, other: (rows, vocabulary) raw logits of the two streams; float32 inside, the dtype of `main` outside.
        alpha: contrast weight, >= 0.  beta: plausibility cut, in [0, 1].
        rows: Bool (rows,), the rows concerned; the others come back as they are.
    """
    first, second, concerned = main.float(), other.float(), rows[:, None]
    mixed = torch.lerp(second, first, 1.0 + alpha * concerned)
    floor = plausible_floor(first, beta).masked_fill(~concerned, -torch.inf)
    return torch.where(first >= floor, mixed, -torch.inf).to(main.dtype)


def renormalise(weights: Tensor) -> Tensor:
    """Divide the last dimension by its sum; rows that sum to 0 stay 0."""
    total = weights.sum(dim=-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def masked_mean_std(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of the masked entries of each row.

    Args:
        values: (rows, keys) float.  mask: Bool (rows, keys).

    Returns:
        Two tensors (rows, 1). A row with no entry has mean 0; with fewer than two entries, deviation 0.
    """
    count = mask.sum(dim=-1, keepdim=True)
    mean = (values * mask).sum(dim=-1, keepdim=True) / count.clamp(min=1)
    squares = ((values - mean).square() * mask).sum(dim=-1, keepdim=True)
    return mean, (squares / (count - 1).clamp(min=1)).sqrt()


def rank_among(values: Tensor, mask: Tensor) -> Tensor:
    """Rank of each masked entry within its row, 0 for the largest; ties keep their order, unmasked entries come last.

    Args:
        values: (rows, entries) float.  mask: Bool (rows, entries).
    """
    order = values.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(order).scatter(
        -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
    )


def outliers(values: Tensor, mask: Tensor) -> Tensor:
    """Bool (rows, entries): masked entries above Tukey's upper fence `Q3 + 1.5 (Q3 - Q1)` of their row.

    Quartiles of the masked entries, linear between neighbours (numpy's default).
    """
    ordered = values.masked_fill(~mask, torch.inf).sort(dim=-1).values
    last = mask.sum(dim=-1, keepdim=True) - 1

    def quartile(share: float) -> Tensor:
        at = (last * share).clamp(min=0)
        below, above = ordered.gather(-1, at.floor().long()), ordered.gather(-1, at.ceil().long())
        return torch.lerp(below, above, (at - at.floor()).to(values.dtype))

    first, third = quartile(0.25), quartile(0.75)
    return mask & (values > third + 1.5 * (third - first))


def unit_rows(values: Tensor) -> Tensor:
    """Divide the last dimension by its l2 norm; rows of zeros stay zeros. Float32 or wider."""
    norm = values.square().sum(dim=-1, keepdim=True).sqrt()
    return values / norm.clamp(min=torch.finfo(values.dtype).tiny)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked entries of the last dimension; NaN where there are none."""
    kept = torch.where(mask, values, 0.0).sum(dim=-1)
    return kept / mask.sum(dim=-1).to(values.dtype)
