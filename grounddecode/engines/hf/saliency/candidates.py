"""Rejection sampling inside the forward pass: the chosen candidate leaves it as the only likely token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.choose import chosen
from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.answers import ended, hear_of, look_of, note_of
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.saliency.gradients import RowGradients
from grounddecode.view import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.generation import Sequence
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method


class Rejection(Part):
    """Has a method judge the candidates of every step, and raises the logit of the chosen one.

    Raises:
        ValueError: a way to generate that leaves the choice to somebody else.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._gradients = RowGradients(method.name)

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        self.reads = self.method.reads(binding.decoder.n_layers)
        if self.reads.saliency:
            self._gradients.attach(binding, self.reads.saliency)

    def act(self) -> None:
        if self.reads.saliency:
            self._gradients.act()

    def finish(self, sequences: Mapping[Any, Sequence]) -> None:
        self._gradients.finish()

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        name = self.method.name
        if kwargs.get("labels") is not None and torch.is_grad_enabled():
            raise ValueError(f"{name} chooses tokens, and no gradient runs through a choice: leave labels out")
        if transformers_names.given_cache(kwargs) is None:
            raise ValueError(f"{name} needs the cache, leave use_cache on")
        if step.generated and step.length > 1:
            step.refuse_several(name)
        if step.phase is Phase.PROMPT and not step.completes_prompt:
            return forward(kwargs)
        step.sequence.fixed = f"{name} chooses tokens itself and cannot follow beams, set num_beams=1"
        seen = bool(self.reads.saliency) and (step.generated > 0 or self.reads.first_token)
        output = self._gradients.run(step, kwargs, forward) if seen else forward(kwargs)
        output.logits = self._choose(step, output.logits, seen, kwargs)
        self._gradients.release()
        return output

    def _choose(self, step: Step, logits: Tensor, seen: bool, kwargs: Mapping[str, Any]) -> Tensor:
        last, trace = logits[:, -1], self.binding.trace
        view = step.answer_view(last.device)
        state = step.sequence.state_of(self.method, view)
        note = None if trace is None else note_of(trace, step, view, ended(self.binding, step, kwargs))
        saliency = (lambda tokens: self._gradients.saliency(tokens, step.total)) if seen else None
        raised, judgement = chosen(
            last, self.method, self.reads, view.with_(state=state), saliency,
            note, look_of(trace, step), hear_of(trace, step),
        )  # fmt: skip
        step.sequence.states[self.method] = judgement.state
        changed = logits.clone()
        changed[:, -1] = raised
        return changed
