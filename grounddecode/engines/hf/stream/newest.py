"""A forward pass of which only the newest token's logits and the cache are read: what nobody reads is not computed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.attach.layers import layered
from grounddecode.engines.hf.attach.running import only_here, only_here_over

_PIECE = 2048  # tokens of all rows that a feed-forward network reads at a time


class NewestOnly:
    """Context in which the feed-forward network of the decoder's last layer runs for the newest token alone.

    Behind the keys and values of the last layer, other tokens reach no logits that are read. The network treats every
    token by itself; its one output stands in for all of them. Those of the other layers read the tokens in pieces,
    since this pass holds a second cache already. Blocks that do not call theirs `mlp` run in full.
    """

    def __init__(self, stack: nn.Module) -> None:
        *self._others, self._last = [getattr(block, "mlp", None) for block in stack.get_submodule("layers").children()]
        self._tokens = 0
        self._stack = ExitStack()

    def __enter__(self) -> NewestOnly:
        for network in self._others:
            if isinstance(network, nn.Module) and "forward" not in vars(network):
                self._stack.enter_context(layered(network, "forward", only_here_over(_in_pieces)))
        if isinstance(self._last, nn.Module):
            self._stack.callback(self._last.register_forward_pre_hook(only_here(self._cut)).remove)
            self._stack.callback(self._last.register_forward_hook(only_here(self._spread)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _cut(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        self._tokens = 0
        if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return None
        self._tokens = args[0].shape[1]
        return (args[0][:, -1:], *args[1:])

    def _spread(self, _: nn.Module, __: Any, output: Any) -> Any:
        if not self._tokens:
            return output
        if isinstance(output, tuple):
            return (output[0].expand(-1, self._tokens, -1), *output[1:])
        return output.expand(-1, self._tokens, -1)


def _in_pieces(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A network's forward over (rows, tokens, width) a piece of the tokens at a time; over anything else as it is."""
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or args[0].dim() != 3:
        return forward(*args, **kwargs)
    x = args[0]
    size = max(1, _PIECE // x.shape[0])
    first = forward(x[:, :size])
    if x.shape[1] <= size:
        return first
    if not isinstance(first, Tensor) or first.shape != x[:, :size].shape:
        return forward(x)
    output = torch.empty(x.shape, dtype=first.dtype, device=first.device)
    output[:, :size] = first
    for start in range(size, x.shape[1], size):
        output[:, start : start + size] = forward(x[:, start : start + size])
    return output
