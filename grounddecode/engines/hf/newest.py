"""A forward pass of which only the newest token's logits and the cache are read: what nobody reads is not computed."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class NewestOnly:
    """Context in which the feed-forward network of the decoder's last layer runs for the newest token alone.

    Behind the keys and values of the last layer, other tokens reach no logits that are read. The network treats every
    token by itself; its one output stands in for all of them. Blocks that do not call theirs `mlp` run in full.
    """

    def __init__(self, stack: nn.Module) -> None:
        *_, block = stack.get_submodule("layers").children()
        network = getattr(block, "mlp", None)
        self._network: nn.Module | None = network if isinstance(network, nn.Module) else None
        self._tokens = 0
        self._hooks: list[Any] = []

    def __enter__(self) -> NewestOnly:
        if self._network is not None:
            cut = self._network.register_forward_pre_hook(self._cut)
            self._hooks = [cut, self._network.register_forward_hook(self._spread)]
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

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
