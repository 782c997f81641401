"""Products of few queries with the keys and values of a cache: on copies of them, or on a CPU in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows

EVERY = slice(None)
_PIECE = 3 * 2**19  # bytes of keys that a processor keeps near while it works on them


class Copies(ABC):
    """Scores and outputs by way of a copy of all keys and values that are asked for.

    A subclass copies: `keys` (b * Hkv, D, T) and `values` (b * Hkv, T, D), float32, see `cache.Reader`.
    """

    @abstractmethod
    def keys(self, cache: Any, rows: Rows, piece: slice = EVERY) -> Tensor: ...

    @abstractmethod
    def values(self, cache: Any, rows: Rows, piece: slice = EVERY) -> Tensor: ...

    def scores(self, asked: Tensor, cache: Any, rows: Rows) -> Tensor:
        """(B * Hkv, Q, T), float32, of queries (B * Hkv, Q, D)."""
        by_request = asked.view(len(rows.slots), -1, *asked.shape[1:])
        pieces = pieces_of(rows, by_request.shape[1], asked.shape[-1])
        return _joined([torch.bmm(by_request[p].flatten(0, 1), self.keys(cache, rows, p)) for p in pieces])

    def outputs(self, weights: Tensor, cache: Any, rows: Rows, width: int) -> Tensor:
        """(B * Hkv, Q, D), float32, of weights (B * Hkv, Q, T); `width`: D."""
        by_request = weights.view(len(rows.slots), -1, *weights.shape[1:])
        pieces = pieces_of(rows, by_request.shape[1], width)
        return _joined([torch.bmm(by_request[p].flatten(0, 1), self.values(cache, rows, p)) for p in pieces])


def _joined(found: list[Tensor]) -> Tensor:
    return found[0] if len(found) == 1 else torch.cat(found)


def pieces_of(rows: Rows, heads: int, width: int) -> list[slice]:
    """The requests of `rows` in pieces, one copied and worked on after the other; on a GPU all are one.

    On a CPU a copy as large as the near cache costs half of one that goes through main memory.
    """
    known = rows.memo.get("pieces")
    if known is None:
        each = 4 * heads * width * rows.keys
        count = len(rows.slots) if rows.slots.is_cuda else max(1, _PIECE // each)
        known = rows.memo["pieces"] = [slice(i, i + count) for i in range(0, len(rows.slots), count)]
    found: list[slice] = known
    return found


@dataclass(frozen=True)
class Places:
    """Where the rows of a table lie that are summed: `index` (N, M), and what torch's kernel wants of it.

    `queries`: (N,) which query each sum belongs to; they come one after the other and have as many sums each.
    """

    index: Tensor  # (N * M,)
    starts: Tensor  # (N,), where each sum begins
    queries: Tensor

    @classmethod
    def of(cls, index: Tensor, queries: int) -> Places:
        """`queries`: how many there are."""
        starts = torch.arange(0, index.numel(), index.shape[1], dtype=index.dtype, device=index.device)
        each = torch.arange(queries, device=index.device).repeat_interleave(len(index) // queries)
        return cls(index.reshape(-1), starts, each)


def weighted_sums(table: Tensor, places: Places, weights: Tensor) -> Tensor:
    """(N, width): row n is the sum over m of `weights[n, m] * table[index[n, m]]`; nothing is copied.

    The kernel of `torch.nn.functional.embedding_bag`, without what that makes anew in each layer.

    Args:
        table: (rows, width).  weights: (N, M), of any shape with these entries in order.
    """
    found: Tensor = torch.embedding_bag(table, places.index, places.starts, False, 0, False, weights.reshape(-1))[0]
    return found
