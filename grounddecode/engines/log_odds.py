"""Gradients of candidates' log-odds towards what the unembedding reads, without a pass through it."""

from __future__ import annotations

import torch
from torch import Tensor


def log_odds_gradients(weight: Tensor, logits: Tensor, tokens: Tensor, softcap: float | None = None) -> Tensor:
    """d log(p_c / (1 - p_c)) / d hidden, up to one positive factor.

    Args:
        weight: (vocabulary, width) of the unembedding.  logits: (R, vocabulary) that came of the hidden states.
        tokens: (R, K), all different in a row.  softcap: of the logits, if the model has one.

    Returns:
        (R, K, width) in the dtype of `weight`. The gradient of -log p_c is -(1 - p_c) times this: the same line, but it
        vanishes once p_c rounds to 1. One product with the unembedding serves all candidates. Forbidden tokens have no
        share in it; NaN for a candidate beside which every other one is forbidden: it has no odds.
    """
    logits = logits.float()

    def slope(given: Tensor) -> Tensor:
        if softcap is None:
            return torch.ones_like(given)
        return 1.0 - (given.masked_fill(given == -torch.inf, 0.0) / softcap).square()

    others = logits.scatter(1, tokens, -torch.inf)
    shares = torch.softmax(others, dim=-1).masked_fill((others == -torch.inf).all(dim=-1, keepdim=True), 0.0)
    rest = ((shares * slope(logits)).to(weight.dtype) @ weight).float()  # of no candidates
    rows = weight[tokens].float() * slope(logits.gather(1, tokens))[..., None]
    sizes = torch.cat([logits.gather(1, tokens), torch.logsumexp(others, dim=-1, keepdim=True)], dim=1)
    count = tokens.shape[1]
    own = torch.eye(count, count + 1, dtype=torch.bool, device=tokens.device)
    against = torch.softmax(sizes[:, None].masked_fill(own, -torch.inf), dim=-1)  # without the candidate itself
    return (rows - against @ torch.cat([rows, rest[:, None]], dim=1)).to(weight.dtype)
