"""LocoRE on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit


@dataclass
class LocoREEdit(Edit):
    """Eq. 8-10: keys j of row i with i - window <= j < i and j > image end, for the last prompt row and later ones."""

    beta: float
    window: int = 8
    mode: str = "post_renorm"
    history: str = "after_image"
    layers: tuple[int, ...] | None = None

    def _gamma(self, context: Context) -> Tensor:
        gamma = torch.ones(len(context.end), 1, context.length, context.length)
        if self.layers is not None and context.layer not in self.layers:
            return gamma
        for row, end in enumerate(context.end):
            lowest = context.prompt if self.history == "generated" else end + 1
            for i in range(context.prompt - 1, context.length if end >= 0 else 0):
                for j in range(max(i - self.window, lowest, 0), i):
                    gamma[row, 0, i, j] = 1 + self.beta
        return gamma

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        gamma = self._gamma(context) if self.mode == "score" else torch.ones(())
        return torch.where(scores == -torch.inf, scores, scores * gamma)

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        if self.mode == "score":
            return weights
        raised = weights * self._gamma(context)
        if self.mode == "post":
            return raised
        changed = raised / raised.sum(-1, keepdim=True).clamp(min=1e-30)
        rows = torch.arange(context.length) >= context.prompt - 1
        return torch.where(rows[:, None], changed, weights)


def _cases() -> Iterator[Case]:
    yield Case("locore", (LocoRE(beta=3.0),), (LocoREEdit(3.0),))
    yield Case("locore-post", (LocoRE(beta=3.0, mode="post"),), (LocoREEdit(3.0, mode="post"),), everywhere=False)
    yield Case("locore-score", (LocoRE(beta=3.0, mode="score"),), (LocoREEdit(3.0, mode="score"),), everywhere=False)
    yield Case(
        "locore-generated-2-layers",
        (LocoRE(beta=3.0, window=2, history="generated", layers=(1, 2)),),
        (LocoREEdit(3.0, window=2, history="generated", layers=(1, 2)),),
        everywhere=False,
    )


CASES = tuple(_cases())
