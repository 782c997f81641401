"""NoLan: a whole pass over picture and text a step, one over the text; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.contrast.nolan import NoLan
from tests.oracle.case import Case
from tests.oracle.prompts import cut, text_logits
from tests.oracle.whole import Adjustment, Oracle


@dataclass
class LessPrior(Adjustment):
    """(1 + a) l - a u, a by the symmetric divergence of each row, or 1."""

    kappa: float = 0.8
    fixed: bool = False
    beta: float = 0.0

    @property
    def strength(self) -> float:
        return 2 * self.kappa

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        rows = []
        for main, text in zip(now.double(), text_logits(oracle, inputs, tokens).double(), strict=True):
            p, q = main.softmax(-1), text.softmax(-1)
            apart = float(((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2)
            weight = 1.0 if self.fixed else self.kappa * (math.tanh(1 / apart) + 1)
            rows.append((1 + weight) * main - weight * text)
        return cut(torch.stack(rows), now, self.beta).float()


CASES = (
    Case("nolan", (NoLan(kappa=0.4),), adjustments=(LessPrior(0.4),)),
    Case(
        "nolan-fixed",
        (NoLan(weight="fixed", beta=0.1),),
        adjustments=(LessPrior(fixed=True, beta=0.1),),
        everywhere=False,
    ),
)
