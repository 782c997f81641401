"""From logits to the choice of a token: what methods adjust, and what a method that judges candidates takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from grounddecode.method import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.method import Method
    from grounddecode.view import StepView

CHOSEN = 1e4  # logit of the chosen token: nothing competes with it, and half precision can hold it


def adjusting(methods: Sequence[Method]) -> list[Method]:
    """The methods that adjust logits, in list order."""
    return [m for m in methods if Needs.LOGITS in m.active_needs()]


def adjusted(logits: Tensor, methods: Sequence[Method], view: StepView) -> Tensor:
    """Next-token logits (R, vocabulary) through every method that adjusts them."""
    for method in methods:
        logits = method.adjust_logits(logits, view)
    return logits


def raised(logits: Tensor, tokens: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
    """Logits with the chosen candidate as the only likely token.

    Args:
        logits: (R, vocabulary).  tokens: (R, K) candidates.  chosen: (R,) columns of them.
        rows: Bool (R,), the rows concerned; the others stay as they are.
    """
    taken = tokens.gather(1, chosen[:, None])
    return torch.where(rows[:, None], logits.scatter(1, taken, CHOSEN), logits)
