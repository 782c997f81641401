"""What methods remember of the model's own logits from step to step: it follows the rows, through beams too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.part import Part

if TYPE_CHECKING:
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method


class Memory(Part):
    """Shows methods the model's logits of every step before any method moves them, and keeps what they remember.

    Raises:
        ValueError: a generation without a cache, in which no step knows of an earlier one.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = tuple(methods)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if transformers_names.given_cache(kwargs) is None:
            raise ValueError(f"{self.methods[0].name} remembers earlier steps by the cache, leave use_cache on")
        output = forward(kwargs)
        if step.total >= step.sequence.prompt_length:
            last, states = output.logits[:, -1], step.sequence.states
            view = step.answer_view(last.device)
            for method in self.methods:
                state = step.sequence.state_of(method, view)
                states[method] = method.remember(last, view.with_(state=state, memo=view.memo))
        return output
