"""Tensor formulas that several methods share; pure, vectorised over rows, never in place."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def plausible(logits: Tensor, beta: float) -> Tensor:
    """Tokens whose probability is at least `beta` times that of the most probable one.

    Args:
        logits: (rows, vocabulary), raw; log-probabilities give the same answer.
        beta: in [0, 1]; 0 keeps every token, 1 only the most probable ones.

    Returns:
        Bool (rows, vocabulary). Source: the adaptive plausibility constraint of contrastive decoding (Li et al.
        2023), as used by VCD (Eq. 4) and AvisC: `l >= ln(beta) + max l`.
    """
    if beta <= 0:
        return torch.ones_like(logits, dtype=torch.bool)
    return logits >= logits.amax(dim=-1, keepdim=True) + math.log(beta)


def contrast(main: Tensor, other: Tensor, alpha: float, beta: float) -> Tensor:
    """`(1 + alpha) * main - alpha * other` on the plausible tokens of `main`, -inf on the others.

    Args:
        main, other: (rows, vocabulary) raw logits of the two streams; float32 inside, the dtype of `main` outside.
        alpha: contrast weight, >= 0.  beta: plausibility cut, in [0, 1].
    """
    first, second = main.float(), other.float()
    mixed = first + alpha * (first - second)
    return mixed.masked_fill(~plausible(first, beta), -torch.inf).to(main.dtype)


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
