"""DoLa on models that end early, one row at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.layers.dola import DoLa
from tests.oracle.case import Case
from tests.oracle.whole import Adjustment, Oracle


@dataclass
class Contrasted(Adjustment):
    """The farthest exit's logits are subtracted on the plausible tokens."""

    exits: tuple[int, ...]
    alpha: float = 1.0
    beta: float = 0.1

    def distance(self, one: Tensor, other: Tensor) -> float:
        p, q = one.softmax(0), other.softmax(0)
        middle = (p + q) / 2
        return float((p * (p / middle).log() + q * (q / middle).log()).sum() / 2)

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        early = [oracle.exit(inputs, tokens, e).double() for e in self.exits]
        found = []
        for row, plain in enumerate(now.double()):
            far = [self.distance(plain, exit[row]) for exit in early]
            likely = plain.softmax(0)
            mixed = plain - self.alpha * early[far.index(max(far))][row]
            found.append(torch.where(likely >= self.beta * likely.max(), mixed, -torch.inf))
        return torch.stack(found).float()


def _cases() -> Iterator[Case]:
    yield Case("dola", (DoLa(exits=(1, 2, 3)),), adjustments=(Contrasted((1, 2, 3)),))
    yield Case("dola-high", (DoLa(alpha=0.5, beta=0.02),), adjustments=(Contrasted((2,), 0.5, 0.02),), everywhere=False)


CASES = tuple(_cases())
