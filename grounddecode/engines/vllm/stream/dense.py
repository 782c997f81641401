"""The cache of second streams: dense, beside vLLM's own, as large as the streams that are there need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.engines.vllm.attention.products import EVERY, Copies

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows

_GROWTH = 256  # tokens by which it grows


class DenseCache(Copies):
    """Keys, values and token flags of every stream, by layer; a stream has a row of each tensor, its place.

    Attributes:
        most: rows there may be.  unseen: (rows, room) bool, keys that are hidden from all queries; None: no room yet.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.unseen: Tensor | None = None
        self._free: list[int] = []
        self._rows = self._room = 0
        self._keys: dict[str, Tensor] = {}  # by layer: (rows, Hkv, room, D)
        self._values: dict[str, Tensor] = {}
        self._flags: dict[tuple[int, str], Tensor] = {}  # (rows, room)

    @property
    def numbers(self) -> int:
        """How many numbers it holds of keys and values."""
        return sum(tensor.numel() for kept in (self._keys, self._values) for tensor in kept.values())

    # -- places ------------------------------------------------------------------------------------------------------
    def take(self, device: torch.device) -> int:
        """A place for a stream. Raises RuntimeError where there is none: more were let in than there may be."""
        if not self._free:
            more = min(max(1, self._rows), self.most - self._rows)
            if more < 1:
                raise RuntimeError(f"there are {self.most} second streams, as many as there may be")
            self._free = list(range(self._rows + more - 1, self._rows - 1, -1))
            self._rows += more
            self._enlarge(device)
        return self._free.pop()

    def give_back(self, place: int) -> None:
        self._free.append(place)
        if self.unseen is not None:
            self.unseen[place] = False

    def clear(self) -> None:
        """Let everything go: there are no streams."""
        self._free, self._rows, self._room, self.unseen = [], 0, 0, None
        self._keys, self._values, self._flags = {}, {}, {}

    def make_room(self, tokens: int, device: torch.device) -> None:
        """Room for that many tokens a stream."""
        if tokens > self._room:
            self._room = -(-max(tokens, self._room + _GROWTH) // _GROWTH) * _GROWTH
            self._enlarge(device)

    def _enlarge(self, device: torch.device) -> None:
        """Every tensor at its new size."""
        rows, room = self._rows, self._room
        for cached in (self._keys, self._values):
            for name, old in cached.items():
                cached[name] = old.new_zeros(rows, old.shape[1], room, old.shape[3])
                cached[name][: old.shape[0], :, : old.shape[2]] = old
        for key, old in self._flags.items():
            self._flags[key] = old.new_zeros(rows, room)
            self._flags[key][: old.shape[0], : old.shape[1]] = old
        before, self.unseen = self.unseen, torch.zeros(rows, room, dtype=torch.bool, device=device)
        if before is not None:
            self.unseen[: before.shape[0], : before.shape[1]] = before

    # -- what it holds -----------------------------------------------------------------------------------------------
    def of_layer(self, name: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, Hkv, room, D) of a layer; `like`: keys (tokens, Hkv, D) of that layer."""
        if name not in self._keys:
            shape = (self._rows, like.shape[1], self._room, like.shape[2])
            self._keys[name], self._values[name] = like.new_zeros(shape), like.new_zeros(shape)
        return self._keys[name], self._values[name]

    def keys(self, cache: tuple[Tensor, Tensor], rows: Rows, piece: slice = EVERY) -> Tensor:
        """See `Copies`; `cache`: what `of_layer` gave."""
        return used(cache[0], rows)[piece].flatten(0, 1).float().mT

    def values(self, cache: tuple[Tensor, Tensor], rows: Rows, piece: slice = EVERY) -> Tensor:
        return used(cache[1], rows)[piece].flatten(0, 1).float()

    def note(self, flags: Tensor, index: int, name: str, places: Tensor, at: Tensor) -> None:
        """Flags of the tokens at `at` of the streams in `places`."""
        kept = self._flags.get((index, name))
        if kept is None:
            kept = self._flags[index, name] = flags.new_zeros(self._rows, self._room)
        kept[places, at] = flags

    def flags(self, index: int, name: str, rows: Rows) -> Tensor | None:
        """(B, T) bool of the keys of these rows."""
        kept = self._flags.get((index, name))
        return None if kept is None else kept[rows.memo["place"], : rows.keys]


def used(cache: Tensor, rows: Rows) -> Tensor:
    """(B, Hkv, T, D) of the rows' requests, a view where they lie in the cache's order."""
    kept = cache[:, :, : rows.keys]
    return kept[: len(rows.slots)] if rows.memo["in_order"] else kept.index_select(0, rows.memo["place"])
