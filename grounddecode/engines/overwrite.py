"""What stands in place of image tokens that a second stream does not see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def overwritten(embeds: Tensor, here: Tensor, scheme: str, read: Tensor | int = 0) -> Tensor:
    """Embeddings with some tokens overwritten.

    Args:
        embeds: (rows, tokens, width).  here: (rows, tokens) bool.
        scheme: `zeros`, `ones`, `noise`; `mask` overwrites nothing.
        read: (rows, 1) tokens overwritten in earlier pieces of the same prompts.
    """
    if scheme == "mask":
        return embeds
    if scheme != "noise":
        return embeds.masked_fill(here[..., None], 1.0 if scheme == "ones" else 0.0)
    # The k-th overwritten token of a row gets row k of one table, so that noise depends on no other row and on no
    # padding. The generator is its own: the random numbers of sampling stay what they were. A table of a multiple of 16
    # rows begins like any longer one.
    order = (read + here.cumsum(dim=-1) - 1).clamp(min=0)
    rows = -(-(int(order.max()) + 1) // 16) * 16
    table = torch.randn(rows, embeds.shape[-1], generator=torch.Generator().manual_seed(0))
    return torch.where(here[..., None], table.to(embeds)[order], embeds)
