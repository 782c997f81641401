"""PAINT and head gains on whole matrices; nothing here comes from grounddecode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.dense import Context, Edit


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
class PaintEdit(Edit):
    """z + alpha |z| on local and z + beta |z| on summary tokens of the last prompt row and later ones.

    `sets` gives, for a whole batch, the positions of local and of summary tokens of each row.
    """

    alpha: float
    beta: float
    layers: tuple[int, int]
    sets: Callable[[Context], list[tuple[list[int], list[int]]]]

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        if not self.layers[0] <= context.layer < self.layers[1]:
            return scores
        edited = scores.clone()
        for row, (local, summary) in enumerate(self.sets(context)):
            for positions, share in ((local, self.alpha), (summary, self.beta)):
                for i in range(context.prompt - 1, context.length):
                    z = scores[row, :, i, positions]
                    edited[row, :, i, positions] = torch.where(z == -torch.inf, z, z + share * z.abs())
        return edited
