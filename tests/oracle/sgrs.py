"""SGRS on whole sequences: no cache, whole attention matrices, autograd through everything, one row at a time.

The oracle takes nothing from grounddecode. Each step reads prompt and generated tokens anew, takes the gradient of each
candidate's log-odds with respect to the whole attention matrices, and decides in plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from grounddecode.methods.choice.sgrs import SGRS
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit, Oracle
from tests.zoo import FIRST_SPECIAL, Family


class _Reachable(Edit):
    """Notes which keys the last row may look at, layer by layer."""

    def __init__(self) -> None:
        self.keys: dict[int, list[list[int]]] = {}

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        last = scores[:, 0, -1] > -torch.inf
        self.keys[context.layer] = [[j for j, there in enumerate(row) if there] for row in last.tolist()]
        return scores


@dataclass
class Decision:
    """One row of one step: candidates (most probable first), their saliencies, what came of it."""

    candidates: list[int]
    scores: list[float]
    chosen: int
    accepted: bool
    draws: int


@dataclass
class Rejection:
    """Algorithm 1 with the most probable candidate drawn first."""

    layers: Sequence[int]
    alpha: float = 0.6
    top_k: int = 5
    draws: int = 3
    window: int = 5
    history: str = "after_image"
    append_fallback: bool = False
    edits: Sequence[Edit] = ()
    log_odds: bool = True
    decisions: list[list[Decision]] = field(default_factory=list)

    def greedy(self, model: Any, family: Family, inputs: dict[str, Tensor], steps: int) -> tuple[Tensor, Tensor]:
        """Logits (steps, rows, vocabulary), that of the chosen token 10,000, and the tokens (rows, steps)."""
        rows = len(inputs["input_ids"])
        tokens = torch.zeros(rows, 0, dtype=torch.long)
        accepted: list[list[float]] = [[] for _ in range(rows)]
        self.decisions, kept = [], []
        for _ in range(steps):
            logits, candidates, scores = self.scored(model, family, inputs, tokens)
            decided = [
                self.decide(candidates[row].tolist(), scores[row].tolist(), accepted[row]) for row in range(rows)
            ]
            logits = logits.detach().clone()
            for row, decision in enumerate(decided):
                logits[row, decision.chosen] = 1e4
            self.decisions.append(decided)
            kept.append(logits)
            tokens = torch.cat([tokens, logits[:, :FIRST_SPECIAL].argmax(-1)[:, None]], dim=1)
        return torch.stack(kept), tokens

    def scored(
        self, model: Any, family: Family, inputs: dict[str, Tensor], tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (rows, vocabulary), candidates and scores (rows, K) of the next token."""
        reachable = _Reachable()
        oracle = Oracle(model, family, [reachable, *self.edits])
        grown, prompt = family.extended(inputs, tokens), inputs["input_ids"].shape[1]
        context, logits = oracle.forward(grown, prompt, gradient=True)
        candidates = logits.detach().topk(self.top_k, dim=-1).indices
        scores = torch.zeros(candidates.shape, dtype=torch.float64)
        for k in range(self.top_k):
            matrices = [context.weights[layer] for layer in self.layers]
            gradients = torch.autograd.grad(self.loss(logits, candidates[:, k]), matrices, retain_graph=True)
            for layer, matrix, gradient in zip(self.layers, matrices, gradients, strict=True):
                for row, end in enumerate(context.end):
                    score = self.of_row(
                        matrix[row, :, -1].detach(), gradient[row, :, -1], end, prompt, reachable.keys[layer][row]
                    )
                    scores[row, k] += score / len(self.layers)
        return logits, candidates, scores

    def loss(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Sum over rows (they do not depend on each other) of the loss of one candidate each."""
        total = torch.zeros(())
        for row, token in enumerate(tokens.tolist()):
            if self.log_odds:
                others = torch.cat([logits[row, :token], logits[row, token + 1 :]])
                total = total - (logits[row, token] - others.logsumexp(0))
            else:
                total = total - logits[row].log_softmax(0)[token]
        return total

    def of_row(self, weights: Tensor, gradient: Tensor, end: int, prompt: int, reachable: list[int]) -> float:
        """Mean over the history of the l2-normalised head mean of |A * dL/dA|, both (heads, T)."""
        saliency = (weights.double() * gradient.double()).abs().mean(0).tolist()
        norm = math.sqrt(math.fsum(s * s for s in saliency))
        first = prompt if self.history == "generated" else end + 1
        history = [j for j in reachable if j >= first]
        return math.fsum(saliency[j] / norm for j in history) / len(history) if history else math.nan

    def decide(self, candidates: list[int], scores: list[float], accepted: list[float]) -> Decision:
        recent = accepted[-self.window :]
        threshold = self.alpha * math.fsum(recent) / len(recent) if recent else -math.inf
        for draw in range(min(self.draws, self.top_k)):
            score = scores[draw]
            if math.isnan(score) or score >= threshold:
                if not math.isnan(score):
                    accepted.append(score)
                return Decision(candidates, scores, candidates[draw], True, draw + 1)
        best = max(range(len(scores)), key=lambda k: scores[k])
        if self.append_fallback:
            accepted.append(scores[best])
        return Decision(candidates, scores, candidates[best], False, min(self.draws, self.top_k))


_LAYERS = (0, 2)

CASES = (Case("sgrs", (SGRS(layers=_LAYERS, alpha=1.5),), rejection=lambda: Rejection(_LAYERS, alpha=1.5)),)
