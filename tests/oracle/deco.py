"""DeCo on models that end early, one row and one token at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.layers.deco import DeCo
from tests.oracle.case import Case
from tests.oracle.whole import Adjustment, Oracle


@dataclass
class Corrected(Adjustment):
    """The surest exit's logits are added on the candidates."""

    alpha: float
    exits: tuple[int, ...]
    top_p: float = 0.9
    top_k: int = 20

    def candidates(self, now: Tensor) -> list[int]:
        shares = now.double().softmax(0).tolist()
        found: list[int] = []
        for token in sorted(range(len(shares)), key=lambda v: (-shares[v], v)):
            found.append(token)
            if len(found) == self.top_k or sum(shares[v] for v in found) >= self.top_p:
                break
        return found

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        early = [oracle.exit(inputs, tokens, e).double() for e in self.exits]
        found = torch.full_like(now, -torch.inf)
        for row, plain in enumerate(now):
            kept = self.candidates(plain)
            sure = [max(exit[row].softmax(0)[kept].tolist()) for exit in early]
            most = sure.index(max(sure))
            found[row, kept] = (plain[kept].double() + self.alpha * sure[most] * early[most][row, kept]).float()
        return found


def _cases() -> Iterator[Case]:
    yield Case("deco", (DeCo(alpha=2.0),), adjustments=(Corrected(2.0, (2, 3)),))
    yield Case(
        "deco-settings",
        (DeCo(alpha=2.0, top_p=0.6, top_k=7, exits=(3, 1)),),
        adjustments=(Corrected(2.0, (1, 3), 0.6, 7),),
        everywhere=False,
    )


CASES = tuple(_cases())
