"""The last row of a prompt once more through the upper layers, alone and with gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attention.call import Call
from grounddecode.engines.hf.decoder import AttentionLayer
from grounddecode.engines.hf.saliency.last_row import LastRowCall, own_column, standing

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.step import Step


class PromptReplay:
    """After each upper layer has read the whole prompt, runs it again for the last row against the same keys.

    Behind the last layer the result without gradients stands for the row, so that the model's own final norm leads from
    it to the unembedding, and logits are the same to the bit where the row needs no gradients. What the model adds
    between two layers is added to the row as a constant.
    """

    def __init__(self, method: str) -> None:
        self.method = method
        self.active = False  # a layer is being run for the last row
        self._step: Step | None = None
        self._needless: Callable[[], bool] = bool
        self._calls: dict[int, Call] = {}
        self._row: Tensor | None = None  # the row behind the layers so far, in the graph
        self._plain: Tensor | None = None  # the same without

    def act(self, binding: Binding, upper: Sequence[AttentionLayer]) -> None:
        for layer in upper:
            hook = functools.partial(self._behind, layer.index, layer.index == upper[-1].index)
            binding.hook(layer.block.register_forward_hook, hook, with_kwargs=True)

    def begin(self, step: Step, needless: Callable[[], bool]) -> None:
        """`needless`: asked behind each layer, whether the row needs no gradients."""
        self._step, self._needless = step if step.length > 1 else None, needless

    def clear(self) -> None:
        self._step = self._row = self._plain = None
        self._calls.clear()

    def check(self, call: Call, step: Step) -> None:
        """Raises ValueError where earlier rows look at the last one: what goes through them would be missed."""
        if call.mask is not None and call.mask.dim() == 4:
            seen = call.mask[:, :, :-1, own_column(step, call.key.shape[2])]
            if bool((seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2).any()):
                raise ValueError(
                    f"{self.method}: tokens of the prompt look at later ones in this model, set first_step='skip'"
                )

    def note(self, call: Call, layer: int) -> None:
        """Keys, values and mask of the whole prompt in one layer."""
        self._calls[layer] = call

    def row(self, call: Call, layer: int, step: Step) -> LastRowCall:
        """The last row's call, from that of the layer run for it alone."""
        return LastRowCall.of(call, self._calls.pop(layer), call.key, call.value, step)

    def _behind(
        self, layer: int, last: bool, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        step = self._step
        if step is None or self._needless():
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        given = hidden[:, -1:].detach()
        with torch.enable_grad():
            if self._row is not None and self._plain is not None:
                given = self._row + (given - self._plain)
            self._row = self._alone(block, given, args, kwargs, step.length)
        plain = output[0] if isinstance(output, tuple) else output
        self._plain = plain[:, -1:].detach()
        if not last:
            return None
        torch.set_grad_enabled(True)  # until the unembedding
        joined = torch.cat([plain[:, :-1], standing(self._row, self._plain)], dim=1)
        return (joined, *output[1:]) if isinstance(output, tuple) else joined

    def _alone(
        self, block: nn.Module, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], length: int
    ) -> Tensor:
        rest = [_last_row(value, length) for value in args[1:]]
        uncached = transformers_names.without_cache(kwargs)
        named = {name: _last_row(value, length) for name, value in uncached.items()}
        if not args:
            named["hidden_states"] = given
        self.active = True
        try:
            result = block.forward(*([given] if args else []), *rest, **named)
        finally:
            self.active = False
        row: Tensor = result[0] if isinstance(result, tuple) else result
        return row


def _last_row(value: Any, length: int) -> Any:
    """An input of a layer for the last position alone; of masks any part will do, the recorded one is used."""
    if isinstance(value, (tuple, list)):
        return type(value)(_last_row(entry, length) for entry in value)
    if not isinstance(value, Tensor) or value.dtype == torch.bool or value.dim() == 0:
        return value
    real = value.is_floating_point() or value.is_complex()
    if not real and value.shape[-1] == length:  # position numbers
        return value[..., -1:]
    if real and value.dim() > 2 and value.shape[-2] == length:  # rotations, inputs of the layer
        return value[..., -1:, :]
    return value
