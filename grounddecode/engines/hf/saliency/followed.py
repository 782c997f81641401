"""Whether the layers of a cache hold what they held after the last step: then a step only adds its newest column."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from grounddecode.engines.hf.transformers_names import FIXED_LAYER, USUAL_LAYER, cache_layers

_Left = tuple[Callable[[], Tensor | None], int, Callable[[], Tensor | None], int]


class Followed:
    """Layers of the kinds that add a token and leave the others alone: what a step left there is known by its tensors.

    What is cut, reordered, filled anew or put elsewhere is another tensor, or one of another version.
    """

    def __init__(self, lowest: int) -> None:
        self._lowest = lowest  # layers below are not followed
        self._layers: list[Any] = []
        self._left: dict[int, _Left] = {}
        self._only_added: dict[int, bool] = {}  # in the step that runs, of layers that keep tokens as they were given
        self.newest: dict[int, tuple[Tensor, Tensor]] = {}  # keys and values (B, Hkv, 1, D)
        self.given: dict[int, tuple[Tensor, Tensor]] = {}  # what attention is given (B, Hkv, T, D)

    def begin(self, cache: Any) -> None:
        self._layers = cache_layers(cache)
        for known in (self._only_added, self.newest, self.given):
            known.clear()

    def update(
        self, original: Callable[..., Any], key: Tensor, value: Tensor, layer: int, *args: Any, **options: Any
    ) -> Any:
        """In place of a cache's `update`, whose `original` is called for the newest token of each row."""
        if layer < self._lowest:
            return original(key, value, layer, *args, **options)
        held, left = self._keeping(layer), self._left.pop(layer, None)
        same = held is not None and left is not None and _is_left(left, held)
        given = original(key, value, layer, *args, **options)
        if held is not None and given[0] is held.keys and given[1] is held.values:
            self._left[layer] = (
                weakref.ref(held.keys), held.keys._version, weakref.ref(held.values), held.values._version,
            )  # fmt: skip
            self._only_added[layer] = same
        self.newest[layer], self.given[layer] = (key, value), given
        return given

    def _keeping(self, layer: int) -> Any:
        """A layer of a kind that keeps tokens as they were given."""
        held = self._layers[layer] if layer < len(self._layers) else None
        return held if type(held).__name__ in (USUAL_LAYER, FIXED_LAYER) and "update" not in vars(held) else None

    def keep(self, layers: Iterable[int]) -> bool:
        """Whether these layers hold the newest tokens as they were given."""
        return all(layer in self._only_added for layer in layers)

    def only_added(self, layers: Iterable[int]) -> bool:
        """Whether the step that runs did nothing else to these layers, and nobody did since the one before."""
        return all(self._only_added.get(layer, False) for layer in layers)


def _is_left(left: _Left, held: Any) -> bool:
    keys, keys_version, values, values_version = left
    same = keys() is held.keys and values() is held.values
    return same and (keys_version, values_version) == (held.keys._version, held.values._version)
