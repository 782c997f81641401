"""VAF on whole matrices, one key at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.vaf import VAF
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit


@dataclass
class Amplified(Edit):
    """Rows behind the last image: factors on its keys and those of other images, and on keys before the first."""

    enhance: float
    suppress: float
    layers: tuple[int, int]
    form: str = "released"

    def _factors(self, context: Context) -> Tensor:
        factors = torch.ones(len(context.end), 1, context.length, context.length)
        if self.layers[0] <= context.layer < self.layers[1]:
            for row, end in enumerate(context.end):
                image = context.image[row].tolist()
                for j in range(end + 1):
                    factor = self.enhance if image[j] else self.suppress if not any(image[:j]) else 1.0
                    factors[row, 0, end + 1 :, j] = factor
        return factors

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        return scores * self._factors(context) if self.form == "released" else scores

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        if self.form == "released":
            return weights
        raised = weights.double() * self._factors(context).double()
        return torch.where(weights.sum(-1, keepdim=True) > 0, raised / raised.sum(-1, keepdim=True), weights).float()


def _cases() -> Iterator[Case]:
    layers = (0, 3)
    yield Case("vaf", (VAF(enhance=2.0, suppress=0.5, layers=layers),), (Amplified(2.0, 0.5, layers),))
    yield Case(
        "vaf-weights",
        (VAF(enhance=3.0, suppress=0.5, layers=layers, form="weights"),),
        (Amplified(3.0, 0.5, layers, "weights"),),
        everywhere=False,
    )
    yield Case("vaf-auto", (VAF(enhance=4.0, suppress=0.2),), (Amplified(4.0, 0.2, (1, 2)),), everywhere=False)


CASES = tuple(_cases())
