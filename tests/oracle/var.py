"""VAR on whole matrices, one row and one head at a time; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.var import VAR
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit


@dataclass
class VAREdit(Edit):
    """Sinks are found anew in each layer's input; rows behind the image of every layer but the last are edited."""

    sink_dims: tuple[int, ...]
    tau: float
    p: float = 0.6
    rho: float = 0.5
    sinks: str = "all"
    released: bool = False

    def is_sink(self, x: list[float]) -> bool:
        square = math.fsum(value * value for value in x) / len(x)
        if square == 0:
            return False
        phi = max(abs(x[d]) for d in self.sink_dims) / math.sqrt(square)
        return phi > self.tau if self.released else phi >= self.tau

    def row(self, a: list[float], image: list[int], sink: list[int]) -> list[float]:
        """New weights of one head of one query."""
        visible = math.fsum(a[j] for j in image)
        looking = math.fsum(a[j] for j in image if j not in sink)
        if visible < 0.2 or looking <= 0:
            return a
        if self.released and (visible - looking) / visible > self.rho:
            return a
        if not self.released and looking / visible < self.rho:
            return a
        p = 1 - self.p if self.released else self.p
        budget = p * math.fsum(a[j] for j in sink)
        new = list(a)
        for j in sink:
            new[j] = (1 - p) * a[j]
        for j in image:
            if j not in sink:
                new[j] = a[j] + budget * a[j] / looking
        return new

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        left_out = context.layer < 2 if self.released else context.layer == context.n_layers - 1
        if left_out:
            return weights
        edited = weights.clone()
        hidden = context.hidden[context.layer]
        for row, end in enumerate(context.end):
            if end < 0:
                continue
            sink = [j for j, x in enumerate(hidden[row].tolist()) if self.is_sink(x)]
            if self.sinks == "prompt" or self.released:
                sink = [j for j in sink if j < context.prompt]
            image = [j for j, hit in enumerate(context.image[row].tolist()) if hit]
            for i in range(end + 1, context.length):
                rows = [self.row(a, image, sink) for a in weights[row, :, i].tolist()]
                edited[row, :, i] = torch.tensor(rows)
        return edited


def _cases() -> Iterator[Case]:
    dims = (3, 11)
    yield Case("var", (VAR(sink_dims=dims, tau=1.5, p=0.9, rho=0.2),), (VAREdit(dims, 1.5, p=0.9, rho=0.2),))
    yield Case("var-defaults", (VAR(sink_dims=dims, tau=2.0),), (VAREdit(dims, 2.0),), everywhere=False)
    yield Case(
        "var-prompt-sinks",
        (VAR(sink_dims=dims, tau=1.5, p=0.9, rho=0.2, sinks="prompt"),),
        (VAREdit(dims, 1.5, p=0.9, rho=0.2, sinks="prompt"),),
        everywhere=False,
    )
    yield Case(
        "var-released",
        (VAR(sink_dims=dims, tau=1.5, p=0.2, variant="released"),),
        (VAREdit(dims, 1.5, p=0.2, released=True),),
        everywhere=False,
    )


CASES = tuple(_cases())
