"""The cache of second streams: dense, beside vLLM's own, as large as the streams that are there need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.engines.vllm.attention.products import EVERY, Copies

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows

_GROWTH = 256  # tokens by which it grows


@dataclass(frozen=True)
class Held:
    """Keys and values (rows, Hkv, room, D) of one layer. `columns`: a key is a column in memory, as in CPU_ATTN's."""

    keys: Tensor
    values: Tensor
    columns: bool

    @cached_property
    def blocks(self) -> tuple[Tensor, Tensor]:
        """The same memory as the platform's kernel is told of it: each row of each head is one block."""
        return self.keys.mT.view(self.keys.shape), self.values


class DenseCache(Copies):
    """Keys, values and token flags of every stream, by layer; a stream has a row of each tensor, its place.

    Attributes:
        most: rows there may be.  room: tokens a row has place for.
        unseen: (rows, room) bool, keys that are hidden from all queries; None: no room yet.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.unseen: Tensor | None = None
        self._free: list[int] = []
        self._rows = self.room = 0
        self._layers: dict[str, Held] = {}
        self._flags: dict[tuple[int, str], Tensor] = {}  # (rows, room)

    @property
    def numbers(self) -> int:
        """How many numbers it holds of keys and values."""
        return sum(held.keys.numel() + held.values.numel() for held in self._layers.values())

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
        self._free, self._rows, self.room, self.unseen = [], 0, 0, None
        self._layers, self._flags = {}, {}

    def make_room(self, tokens: int, device: torch.device) -> None:
        """Room for that many tokens a stream."""
        if tokens > self.room:
            self.room = -(-max(tokens, self.room + _GROWTH) // _GROWTH) * _GROWTH
            self._enlarge(device)

    def _enlarge(self, device: torch.device) -> None:
        """Every tensor at its new size."""
        rows, room = self._rows, self.room
        for name, old in self._layers.items():
            held = self._layers[name] = self._zeros(old.keys[0, :, 0], old.columns)
            for was, now in ((old.keys, held.keys), (old.values, held.values)):
                now[: was.shape[0], :, : was.shape[2]] = was
        for key, noted in self._flags.items():
            self._flags[key] = noted.new_zeros(rows, room)
            self._flags[key][: noted.shape[0], : noted.shape[1]] = noted
        before, self.unseen = self.unseen, torch.zeros(rows, room, dtype=torch.bool, device=device)
        if before is not None:
            self.unseen[: before.shape[0], : before.shape[1]] = before

    # -- what it holds -----------------------------------------------------------------------------------------------
    def of_layer(self, name: str, like: Tensor, columns: bool) -> Held:
        """Keys and values of a layer. `like`: keys (tokens, Hkv, D) of that layer; `columns`: see `Held`."""
        held = self._layers.get(name)
        if held is None:
            held = self._layers[name] = self._zeros(like[0], columns)
        return held

    def _zeros(self, like: Tensor, columns: bool) -> Held:
        """`like`: (Hkv, D)."""
        heads, width = like.shape
        values = like.new_zeros(self._rows, heads, self.room, width)
        keys = like.new_zeros(self._rows, heads, width, self.room).mT if columns else torch.zeros_like(values)
        return Held(keys, values, columns)

    def keys(self, cache: Held, rows: Rows, piece: slice = EVERY) -> Tensor:
        """See `Copies`; `cache`: what `of_layer` gave."""
        return used(cache.keys, rows)[piece].flatten(0, 1).float().mT

    def values(self, cache: Held, rows: Rows, piece: slice = EVERY) -> Tensor:
        return used(cache.values, rows)[piece].flatten(0, 1).float()

    def note(self, flags: Tensor, index: int, name: str, places: Tensor, at: Tensor) -> None:
        """Flags of the tokens at `at` of the streams in `places`."""
        kept = self._flags.get((index, name))
        if kept is None:
            kept = self._flags[index, name] = flags.new_zeros(self._rows, self.room)
        kept[places, at] = flags

    def flags(self, index: int, name: str, rows: Rows) -> Tensor | None:
        """(B, T) bool of the keys of these rows."""
        kept = self._flags.get((index, name))
        return None if kept is None else kept[rows.memo["place"], : rows.keys]


def used(cache: Tensor, rows: Rows) -> Tensor:
    """(B, Hkv, T, D) of the rows' requests, a view where they lie in the cache's order."""
    kept = cache[:, :, : rows.keys]
    return kept[: len(rows.slots)] if rows.memo["in_order"] else kept.index_select(0, rows.memo["place"])
