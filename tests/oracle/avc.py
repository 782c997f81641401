"""AvisC on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.contrast.avc import AvisC
from tests.oracle.case import Case
from tests.oracle.whole import Context


@dataclass
class Contrast:
    """AvisC, two separate passes: blind set from the last prompt row of the first, contrast and cut on the logits."""

    alpha: float = 2.5
    beta: float = 0.1
    gamma: float = 0.5
    lamb: float = 1.0
    scheme: str = "zeros"

    @property
    def strength(self) -> float:
        """Weight of the second stream."""
        return self.alpha

    def blind(self, context: Context) -> Tensor:
        """(rows, T) bool, one row and one token at a time."""
        blind = torch.zeros_like(context.image)
        for row, flags in enumerate(context.image.tolist()):
            at_image = [j for j, hit in enumerate(flags) if hit]
            if not at_image:
                continue
            by_layer = [
                context.weights[layer][row, :, context.prompt - 1, at_image].mean(0).double()
                for layer in sorted(context.weights)
            ]
            masses = [float(attention.sum()) for attention in by_layer]
            order = sorted(range(len(masses)), key=lambda layer: -masses[layer])
            running, count = 0.0, 1
            for layer in order:
                running += masses[layer] / sum(masses)
                count += running < self.gamma
            chosen = order[: min(count, len(order))]
            score = sum(by_layer[layer] for layer in chosen) / len(chosen)
            floor = score.mean() + self.lamb * score.std(unbiased=True)
            for j, value in zip(at_image, score.tolist(), strict=True):
                blind[row, j] = value >= float(floor)
        return blind

    def mix(self, main: Tensor, other: Tensor) -> Tensor:
        mixed = (1 + self.alpha) * main.double() - self.alpha * other.double()
        likely = main.double().softmax(-1)
        kept = likely >= self.beta * likely.max(-1, keepdim=True).values
        return torch.where(kept, mixed, -torch.inf).float()


def _cases() -> Iterator[Case]:
    for scheme in ("zeros", "mask", "ones", "noise"):
        oracle = Contrast(alpha=1.0, scheme=scheme)
        everywhere = scheme in ("zeros", "mask")
        yield Case(f"avc-{scheme}", (AvisC(alpha=1.0, scheme=scheme),), (), oracle, everywhere)
    yield Case(
        "avc-settings",
        (AvisC(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),),
        (),
        Contrast(alpha=0.5, beta=0.02, gamma=0.9, lamb=0.3),
        everywhere=False,
    )


CASES = tuple(_cases())
