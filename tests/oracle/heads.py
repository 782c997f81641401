"""Head gains on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.heads import HeadModulation
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit


@dataclass
class GainEdit(Edit):
    """Image weights times 1 + alpha * rank / H of the head, the row divided by its sum, one row at a time."""

    alpha: float
    rows: str = "last"
    layers: tuple[int, ...] | None = None
    known: tuple[tuple[float, ...], ...] | None = None  # sensitivities of (layers x heads); else each row's own

    def row(self, a: Tensor, image: Tensor, known: list[float] | None) -> Tensor:
        """New weights (heads, T) of one query."""
        sensitivity = known or [float(weights[image].double().sum()) for weights in a]
        new = a.double().clone()
        for head, own in enumerate(sensitivity):
            rank = sum(other <= own for other in sensitivity)
            new[head, image] *= 1 + self.alpha * rank / len(sensitivity)
            total = float(new[head].sum())
            new[head] /= total or 1.0
        return new.float()

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        if self.layers is not None and context.layer not in self.layers:
            return weights
        edited = weights.clone()
        known = list(self.known[context.layer]) if self.known is not None else None
        for row, end in enumerate(context.end):
            first = context.prompt - 1 if self.rows == "last" else end + 1
            for i in range(first, context.length if end >= 0 else first):
                edited[row, :, i] = self.row(weights[row, :, i], context.image[row], known)
        return edited


@dataclass
class ConstantGains(Edit):
    """Image weights of each head times a number given for it (layers x heads, or heads), the row divided by its sum."""

    given: Tensor
    layers: tuple[int, ...] = (0, 1, 2, 3)

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        if context.layer not in self.layers:
            return weights
        edited = weights.clone()
        gains = (self.given if self.given.dim() == 1 else self.given[context.layer]).double()
        for row, end in enumerate(context.end):
            for i in range(context.prompt - 1, context.length if end >= 0 else 0):
                new = weights[row, :, i].double() * torch.where(context.image[row], gains[:, None], 1.0)
                edited[row, :, i] = (new / new.sum(-1, keepdim=True)).float()
        return edited


def _cases() -> Iterator[Case]:
    known = ((0.4, 0.1, 0.2, 0.3), (0.1, 0.1, 0.5, 0.2), (0.3, 0.2, 0.1, 0.0), (0.0, 0.1, 0.2, 0.3))
    yield Case("heads", (HeadModulation(alpha=4.0),), (GainEdit(4.0),))
    yield Case(
        "heads-after-image",
        (HeadModulation(alpha=4.0, rows="after_image"),),
        (GainEdit(4.0, "after_image"),),
        everywhere=False,
    )
    yield Case(
        "heads-calibrated",
        (HeadModulation(alpha=4.0, sensitivity="calibrated", head_sensitivity=known, layers=(1, 2)),),
        (GainEdit(4.0, layers=(1, 2), known=known),),
        everywhere=False,
    )
    gains = ((1.0, 0.2, 3.0, 1.5), (2.0, 2.0, 0.0, 0.5), (0.4, 4.0, 1.0, 1.0), (5.0, 1.0, 1.0, 0.1))
    yield Case("heads-gains", (HeadModulation(gains=gains),), (ConstantGains(torch.tensor(gains)),), everywhere=False)
    yield Case(
        "heads-gains-one-row",
        (HeadModulation(gains=gains[:1], layers=(1, 3)),),
        (ConstantGains(torch.tensor(gains[0]), layers=(1, 3)),),
        everywhere=False,
    )


CASES = tuple(_cases())
