"""A method in a package of its own that judges candidates: known to grounddecode by its entry point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.method import Method, option
from grounddecode.reads import Reads
from grounddecode.view import Judgement

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import Candidates, StepView


@dataclass(frozen=True, kw_only=True)
class RunnerUp(Method):
    """Take the second most probable token at every `every`-th step. Source: made up for a test."""

    name: ClassVar[str] = "runner_up"
    paper: ClassVar[str] = "none"
    summary: ClassVar[str] = "takes the second most probable token now and then"

    every: int = option(3, "steps from one such token to the next; 0: never", low=0, source="ours", neutral=0)

    def reads(self, n_layers: int) -> Reads:
        return Reads(candidates=2)

    def start(self, step: StepView) -> Tensor:
        return torch.zeros(len(step.queries), dtype=torch.long, device=step.queries.device)

    def judge(self, candidates: Candidates, step: StepView) -> Judgement:
        seen = step.state + 1
        chosen = (seen % self.every == 0).long()
        return Judgement(
            chosen=chosen, accepted=torch.ones_like(chosen, dtype=torch.bool), draws=chosen + 1, state=seen
        )
