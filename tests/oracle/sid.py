"""SID on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from grounddecode.methods.contrast.sid import SID
from tests.oracle.case import Case
from tests.oracle.whole import Adjustment, Context, Edit, Oracle


@dataclass
class HiddenImage(Edit):
    """A mask with a row for every query: in layers from k on each sees the image tokens that its own step kept.

    The rows of the prompt share the choice of the last one, each later row has its own; one row at a time.
    """

    k: int
    n: int
    keeps: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # by row and query that chose

    def weights(self, weights: Tensor, context: Context) -> Tensor:
        if context.layer == self.k - 1:
            for row, flags in enumerate(context.image.tolist()):
                at = [j for j, hit in enumerate(flags) if hit]
                for i in range(context.prompt - 1, context.length):
                    r = weights[row, :, i].mean(0).tolist()
                    self.keeps[row, i] = sorted(at, key=lambda j: r[j])[: round(len(at) * self.n / 576)]
        return weights

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        if context.layer < self.k:
            return scores
        edited = scores.clone()
        for row, flags in enumerate(context.image.tolist()):
            for i in range(context.length):
                kept = self.keeps[row, max(i, context.prompt - 1)]
                hidden = [j for j, hit in enumerate(flags) if hit and j not in kept]
                edited[row, :, i, hidden] = -torch.inf
                if bool((edited[row, 0, i] == -torch.inf).all()):
                    edited[row, :, i, i] = scores[row, :, i, i]
        return edited


@dataclass
class Introspection(Adjustment):
    """A second whole pass a step, under `HiddenImage` and whatever edits act in the first, before it."""

    k: int = 2
    n: int = 100
    alpha: float = 1.0
    beta: float = 0.1

    @property
    def strength(self) -> float:
        return self.alpha

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        prompt, image = inputs["input_ids"].shape[1], inputs["input_ids"] == oracle.family.image_token
        hiding = Oracle(oracle.model, oracle.family, (*oracle.edits, HiddenImage(self.k, self.n)))
        _, other = hiding.forward(oracle.family.extended(inputs, tokens), prompt)
        return self.mix(now, other, image)

    def mix(self, main: Tensor, other: Tensor, image: Tensor) -> Tensor:
        mixed = (1 + self.alpha) * main.double() - self.alpha * other.double()
        likely = main.double().softmax(-1)
        kept = likely >= self.beta * likely.max(-1, keepdim=True).values
        return torch.where(image.any(1, keepdim=True), torch.where(kept, mixed, -torch.inf), main.double()).float()


CASES = (
    Case("sid", (SID(),), adjustments=(Introspection(),)),
    Case(
        "sid-settings",
        (SID(k=1, n=300, alpha=0.5, beta=0.02),),
        adjustments=(Introspection(1, 300, 0.5, 0.02),),
        everywhere=False,
    ),
)
