"""PAI on whole matrices, and its guidance by a pass over the text; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.pai import PAI
from tests.oracle.case import Case
from tests.oracle.prompts import cut, text_logits
from tests.oracle.whole import Adjustment, Context, Edit, Oracle


@dataclass
class LargerImage(Edit):
    """z + alpha |z| on every image key of the last prompt row and later ones, in layers from lo on."""

    alpha: float
    lo: int = 2
    hi: int = 1000

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        if not self.lo <= context.layer < self.hi:
            return scores
        edited = scores.clone()
        for row, flags in enumerate(context.image.tolist()):
            for j in [j for j, hit in enumerate(flags) if hit]:
                z = scores[row, :, context.prompt - 1 :, j]
                edited[row, :, context.prompt - 1 :, j] = torch.where(z == -torch.inf, z, z + self.alpha * z.abs())
        return edited


@dataclass
class Guidance(Adjustment):
    """G (s - u) + u on log-probabilities."""

    gamma: float
    beta: float = 0.1

    @property
    def strength(self) -> float:
        return self.gamma  # of log-probabilities, whose errors are up to twice those of logits

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        s = now.double().log_softmax(-1)
        u = text_logits(oracle, inputs, tokens).double().log_softmax(-1)
        return cut(self.gamma * (s - u) + u, now, self.beta).float()


CASES = (
    Case("pai", (PAI(alpha=0.9, gamma=1.5, layers=(0, 32)),), (LargerImage(0.9, 0),), adjustments=(Guidance(1.5),)),
    Case("pai-edit", (PAI(alpha=0.9, gamma=1.0),), (LargerImage(0.9),), everywhere=False),
    Case("pai-guidance", (PAI(alpha=0.0, gamma=2.0, beta=0.02),), adjustments=(Guidance(2.0, 0.02),), everywhere=False),
)
