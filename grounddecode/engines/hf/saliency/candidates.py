"""Rejection sampling inside the forward pass: the chosen candidate leaves it as the only likely token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.answers import ended
from grounddecode.engines.hf.saliency.gradients import RowGradients
from grounddecode.engines.hf.step import Step
from grounddecode.method import Method, Needs
from grounddecode.methods.sgrs import SGRS
from grounddecode.view import Candidates, Judgement, Phase

if TYPE_CHECKING:
    from grounddecode.engines.hf.parts import Forward
    from grounddecode.engines.hf.session import Session
    from grounddecode.view import StepView

CHOSEN = 1e4  # logit of the chosen token: nothing competes with it, and half precision can hold it


class Rejection:
    """Judges the candidates of every step and raises the logit of the chosen one.

    Raises:
        ValueError: a combination, or a way to generate, that leaves the choice to somebody else.
    """

    def __init__(self, method: Method, others: Sequence[Method]) -> None:
        if not isinstance(method, SGRS):
            raise ValueError(f"{method.name} judges candidates in a way this engine does not know, use sgrs")
        self.method = method
        for other in others:
            if other is not method and (Needs.LOGITS | Needs.SECOND_STREAM | Needs.CANDIDATES) & other.active_needs():
                raise ValueError(
                    f"{method.name} and {other.name} both decide on the next token, use one of them "
                    f"({method.name} composes with attention edits such as locore)"
                )
        self._session: Session | None = None
        self._gradients = RowGradients(method.name)

    def attach(self, session: Session) -> None:
        self._session = session
        self._gradients.attach(session, self.method.target_layers(session.decoder.n_layers))

    def act(self, session: Session) -> None:
        self._gradients.act(session)

    def begin(self, step: Step) -> None:
        """Nothing to prepare: what was decided before belongs to the sequence."""

    def finish(self, _: object) -> None:
        self._gradients.release()

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        name = self.method.name
        if kwargs.get("labels") is not None and torch.is_grad_enabled():
            raise ValueError(f"{name} chooses tokens, and no gradient runs through a choice: leave labels out")
        if transformers_names.given_cache(kwargs) is None:
            raise ValueError(f"{name} needs the cache, leave use_cache on")
        if step.phase is Phase.DECODE and step.length > 1:
            raise ValueError(f"{name} cannot verify drafted tokens, switch assisted decoding off")
        if step.phase is Phase.PROMPT and not step.completes_prompt:
            return forward(kwargs)
        step.sequence.fixed = f"{name} chooses tokens itself and cannot follow beams, set num_beams=1"
        seen = step.generated > 0 or self.method.first_step == "accept"
        output = self._gradients.run(step, kwargs, forward) if seen else forward(kwargs)
        over = ended(self._session.model, step, kwargs) if self._session is not None else None
        output.logits = self._choose(step, output.logits, seen, over)
        self._gradients.release()
        return output

    def _choose(self, step: Step, logits: Tensor, seen: bool, over: Tensor | None) -> Tensor:
        last = logits[:, -1]
        probable = last.float().log_softmax(dim=-1).topk(min(self.method.top_k, last.shape[1]), dim=-1)
        uniform = torch.rand(probable.values.shape, device=last.device) if self.method.draw == "sample" else None
        candidates = Candidates(
            tokens=probable.indices,
            log_probs=probable.values,
            order=self.method.order(probable.values, uniform),
        )
        view = step.last_view(last.device)
        kept = step.sequence.kept
        if self not in kept:
            kept[self] = self.method.start(len(last), last.device)
        view = view.with_(saliency=self._scores(candidates.tokens, view, seen), state=kept[self])
        judged = self.method.judge(candidates, view)
        kept[self] = judged.state
        self._trace(step, judged, view, over)
        concerned = view.image_end >= 0
        token = candidates.tokens.gather(1, judged.chosen[:, None])
        raised = last.scatter(1, token, CHOSEN)
        changed = logits.clone()
        changed[:, -1] = torch.where(concerned[:, None], raised, last)
        return changed

    def _scores(self, tokens: Tensor, view: StepView, seen: bool) -> Tensor:
        """(rows, K): mean over target layers; NaN where there is nothing to go by."""
        if not seen:
            return torch.full(tokens.shape, torch.nan, device=tokens.device)
        layers = [layer.to(tokens.device) for layer in self._gradients.saliency(tokens)]
        return torch.stack([self.method.score(x.values, x.there, x.keys, view) for x in layers]).mean(dim=0)

    def _trace(self, step: Step, judged: Judgement, view: StepView, over: Tensor | None) -> None:
        """Per row: was the first draw rejected, was there a fallback, how many draws, how salient is the choice.

        NaN for rows that are not judged any more.
        """
        trace = self._session.trace if self._session is not None else None
        if trace is None or view.saliency is None:
            return
        taken = view.saliency.gather(1, judged.chosen[:, None])[:, 0]
        values = {
            "rejected": ~judged.accepted | (judged.draws > 1),
            "fallback": ~judged.accepted,
            "draws": judged.draws,
            "not_scored": taken.isnan(),
            "saliency": taken,
        }
        idle = view.image_end < 0 if over is None else (view.image_end < 0) | over
        for what, value in values.items():
            trace.record(step.generated, self.method.name, what, value.float().masked_fill(idle, torch.nan))
