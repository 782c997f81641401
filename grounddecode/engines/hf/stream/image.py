"""What the second stream sees in place of the image: overwritten embeddings, or keys that are hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attach.running import only_here
from grounddecode.engines.hf.transformers_names import DEEPSTACK, DEEPSTACK_PLACES
from grounddecode.engines.overwrite import overwritten


class Overwrite:
    """Context in which the decoder stack reads prompts with some image tokens overwritten before layer 0.

    Hooks the embeddings that the stack is given; DeepStack features go to 0 at the same tokens. A stack that is given
    ids and merges the image itself (Phi-4-multimodal) is hooked at the input of its first layer instead.

    Args:
        replaced: (rows, prompt) bool, the tokens.  past: position of the first token of this forward.
        scheme: `zeros`, `ones`, `noise`, or `mask` (nothing is overwritten).
    """

    def __init__(self, stack: nn.Module, replaced: Tensor, past: int, scheme: str) -> None:
        self.stack, self.replaced, self.past, self.scheme = stack, replaced, past, scheme
        self._given = False
        self._hooks: list[Any] = []

    def __enter__(self) -> Overwrite:
        if self.scheme != "mask":
            first = next(iter(self.stack.get_submodule("layers").children()))
            self._hooks = [
                self.stack.register_forward_pre_hook(only_here(self._at_stack), with_kwargs=True),
                first.register_forward_pre_hook(only_here(self._at_first_layer), with_kwargs=True, prepend=True),
            ]
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _at_stack(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = kwargs.get("inputs_embeds")
        self._given = embeds is not None
        if embeds is None:
            return args, kwargs
        here = self._here(embeds)
        changed = kwargs | {"inputs_embeds": self._overwritten(embeds, here)}
        if kwargs.get(DEEPSTACK) is not None:
            hidden = here[kwargs[DEEPSTACK_PLACES].to(here.device)][:, None]
            deep = kwargs[DEEPSTACK]
            changed[DEEPSTACK] = [x.masked_fill(hidden.to(x.device), 0.0) for x in deep]
        return args, changed

    def _at_first_layer(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self._given:
            return args, kwargs
        if args:
            return (self._overwritten(args[0], self._here(args[0])), *args[1:]), kwargs
        hidden = kwargs["hidden_states"]
        return args, kwargs | {"hidden_states": self._overwritten(hidden, self._here(hidden))}

    def _here(self, embeds: Tensor) -> Tensor:
        """Bool (rows, tokens of this forward): what is overwritten."""
        here = torch.zeros(embeds.shape[:2], dtype=torch.bool, device=embeds.device)
        part = self.replaced[:, self.past : self.past + embeds.shape[1]].to(embeds.device)
        here[:, : part.shape[1]] = part
        return here

    def _overwritten(self, embeds: Tensor, here: Tensor) -> Tensor:
        read = self.replaced[:, : self.past].sum(dim=-1, keepdim=True).to(here.device)
        return overwritten(embeds, here, self.scheme, read)


def hidden_from(mask: Any, replaced: Tensor, total: int, method: str) -> Any:
    """A mask, or one for each kind of layer, with the replaced prompt tokens hidden as keys, as `method` wants it.

    Args:
        mask: (rows, positions) 0/1, or (rows, 1, queries, keys) bool or additive.  replaced: (rows, prompt) bool.
        total: tokens seen so far. Keys of a 4D mask are the newest ones, or a static cache from position 0 on.
    """
    if isinstance(mask, dict):
        return {kind: hidden_from(entry, replaced, total, method) for kind, entry in mask.items()}
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        raise ValueError(
            f"{method}: image tokens cannot be hidden in this attention mask, load with "
            "attn_implementation='sdpa', and leave a static cache out"
        )
    keys = mask.shape[-1]
    positions = torch.arange(keys, device=mask.device) + (max(0, total - keys) if mask.dim() == 4 else 0)
    inside = positions < replaced.shape[1]
    hidden = replaced.to(mask.device)[:, positions.clamp(max=replaced.shape[1] - 1)] & inside
    if mask.dim() == 2:
        return mask.masked_fill(hidden, 0)
    low = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.masked_fill(hidden[:, None, None, :], low)
