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
