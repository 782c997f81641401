"""Probes: what the last prompt token is behind every layer, with the pictures and without, before the answer begins."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attach.running import only_here
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.stream.prompts import inputs_without_pictures
from grounddecode.engines.hf.stream.same_inputs import Memo, kept_offsets, offset_holders
from grounddecode.engines.hf.watch.hidden import by_row
from grounddecode.view import Probe

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method


class Probing(Part):
    """Has methods start from passes of the bare model over the prompt, and over its text alone.

    With `prompt`, the reading of the prompt itself stands for the first: methods start behind it.

    Raises:
        ValueError: prompts that are not read whole, or a generation without a cache, which reads them at every step.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = tuple(methods)

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        self._aside = any(m.reads(binding.decoder.n_layers).probe == "aside" for m in self.methods)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        name = self.methods[0].name
        if kwargs.get("labels") is not None and torch.is_grad_enabled():
            raise ValueError(f"{name} takes its directions from passes that no gradient runs through: leave labels out")
        if transformers_names.given_cache(kwargs) is None:
            raise ValueError(f"{name} reads the prompt once and steers by the cache, leave use_cache on")
        if step.past or self.binding.step is not step:  # the answer, or a further stream
            return forward(kwargs)
        if step.total > step.sequence.prompt_length:
            raise ValueError(f"{name} begins with the prompt alone, switch assisted decoding off")
        if not step.completes_prompt:
            raise ValueError(f"{name} has to see the whole prompt at once, unset {transformers_names.CHUNK}")
        memo = Memo([], self.binding.decoder.stack)  # where the tokens of the prompt stand
        if self._aside:
            with memo:
                given = self._passed(step, _alone(kwargs, step), forward)
            self._start(step, given, self._text(step, kwargs, memo, forward))
            return forward(kwargs)
        with memo, self._reading(step.sequence.rows) as taken:
            output = forward(kwargs)
        self._start(step, torch.stack(taken, dim=1), self._text(step, kwargs, memo, forward))
        return output

    def _text(self, step: Step, kwargs: dict[str, Any], memo: Memo, forward: Forward) -> Tensor:
        changed = inputs_without_pictures(kwargs, step.sequence, self.binding.decoder, memo.positions)
        return self._passed(step, changed, forward)

    def _start(self, step: Step, given: Tensor, text: Tensor) -> None:
        view = step.last_view(given.device).with_(probe=Probe(given=given, text=text))
        for method in self.methods:
            step.sequence.states[method] = method.start(view)

    def _passed(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Tensor:
        """(rows, layers, width) of the last token behind every layer, in a pass that is no step of the generation."""
        binding = self.binding
        offsets = kept_offsets(offset_holders(binding.model))
        with torch.no_grad(), offsets, binding.aside(), self._reading(step.sequence.rows) as taken:
            binding.step = None
            try:
                forward(kwargs)
            finally:
                binding.step = step
        return torch.stack([hidden.to(taken[-1].device) for hidden in taken], dim=1)

    @contextmanager
    def _reading(self, rows: int) -> Iterator[list[Tensor]]:
        """What the last tokens are behind each layer, of the pass that runs inside."""
        taken: list[Tensor] = []

        def keep(layer: int, _: nn.Module, __: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found = by_row(hidden, rows, f"{self.methods[0].name}: layer {layer}")
            taken.append(found[:, -1].detach().clone())

        with ExitStack() as stack:
            for layer, block in enumerate(self.binding.decoder.blocks):
                hook = only_here(functools.partial(keep, layer))
                stack.callback(block.register_forward_hook(hook).remove)
            yield taken


def _alone(kwargs: dict[str, Any], step: Step) -> dict[str, Any]:
    """Arguments of a forward over the same prompt into no cache, whose mask is that of its padding."""
    off = dict.fromkeys(name for name in transformers_names.CACHE if name in kwargs)
    return {**kwargs, **off, "use_cache": False, "attention_mask": step.sequence.there.long()}
