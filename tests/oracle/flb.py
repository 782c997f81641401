"""FLB on whole sequences; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.choice.flb import FLB
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.whole import Adjustment, Oracle


@dataclass
class Boost(Adjustment):
    """The logits of step `at` are those of a pass that ends there; the cut is on those of the step itself."""

    gamma: float
    lamb: float
    beta: float = 0.1
    at: int = 0

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        since = tokens.shape[1] - self.at
        mixed = now.double()
        if since > 0:
            share = self.gamma * (1 - math.exp(-self.lamb * since))
            mixed = mixed + share * oracle.raw(inputs, tokens[:, : self.at]).double()
        likely = now.double().softmax(-1)
        kept = likely >= self.beta * likely.max(-1, keepdim=True).values
        return torch.where(kept, mixed, -torch.inf).float()


def _cases() -> Iterator[Case]:
    yield Case("flb", (FLB(gamma=0.9, lamb=0.5),), adjustments=(Boost(0.9, 0.5),))
    yield Case(
        "flb-at",
        (FLB(gamma=0.9, lamb=0.7, beta=0.02, at=2),),
        adjustments=(Boost(0.9, 0.7, 0.02, 2),),
        everywhere=False,
    )
    yield Case(
        "locore+flb",
        (LocoRE(beta=3.0), FLB(gamma=0.9, lamb=0.5)),
        (LocoREEdit(3.0),),
        adjustments=(Boost(0.9, 0.5),),
        everywhere=False,
    )


CASES = tuple(_cases())
