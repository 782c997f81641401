"""SPIN on whole matrices, one row and one head at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.attention.spin import SPIN
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.whole import Context, Edit


@dataclass
class Damped(Edit):
    """The heads that are not among the `int(rho H)` first by their look at the image give `damp` of what they would."""

    rho: float
    damp: float
    score: str = "mass"
    rows: str = "last"
    layers: tuple[int, int] = (0, 99)

    def look(self, z: list[float], image: list[int]) -> float:
        seen = [j for j in image if z[j] > -math.inf]
        if self.score == "raw":
            return math.fsum(z[j] for j in seen)
        most = max(z)
        return math.fsum(math.exp(z[j] - most) for j in seen) / math.fsum(math.exp(x - most) for x in z)

    def gains(self, scores: Tensor, context: Context) -> Tensor | None:
        if not self.layers[0] <= context.layer < self.layers[1]:
            return None
        heads = scores.shape[1]
        gains = torch.ones(scores.shape[:3])
        for row, end in enumerate(context.end):
            image = [j for j, hit in enumerate(context.image[row].tolist()) if hit]
            first = context.prompt - 1 if self.rows == "last" else end + 1
            for i in range(first, context.length if end >= 0 else first):
                z = scores[row, :, i].double().tolist()
                if all(z[0][j] == -math.inf for j in image):
                    continue
                order = sorted(range(heads), key=lambda head: (-self.look(z[head], image), head))
                for head in order[int(self.rho * heads) :]:
                    gains[row, head, i] = self.damp
        return gains


def _cases() -> Iterator[Case]:
    yield Case("spin", (SPIN(rho=0.5),), (Damped(0.5, 0.08),))
    yield Case("spin-raw", (SPIN(rho=0.8, damp=0.1, score="raw"),), (Damped(0.8, 0.1, "raw"),), everywhere=False)
    yield Case(
        "spin-after-image",
        (SPIN(rho=0.5, damp=0.3, rows="after_image", layers=(1, 3)),),
        (Damped(0.5, 0.3, rows="after_image", layers=(1, 3)),),
        everywhere=False,
    )
    yield Case(
        "spin+locore",
        (SPIN(rho=0.5), LocoRE(beta=1.0, mode="score")),
        (Damped(0.5, 0.08), LocoREEdit(1.0, mode="score")),
        everywhere=False,
    )


CASES = tuple(_cases())
