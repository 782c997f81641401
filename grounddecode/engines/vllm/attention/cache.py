"""Keys and values of whole requests out of the paged cache, for each backend's way of storing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from grounddecode.engines.vllm.attention.products import EVERY, Copies, Places, weighted_sums

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows

_FEW = 8  # queries that share a key: more are served by one copy of it


class Reader(Protocol):
    """Reads keys and values, float32, of the requests of `rows` from one layer's cache; `piece`: which of them.

    `cache`: (blocks, Hkv, block, 2 D), whatever its strides. A backend may be given no keys and values of the new
    tokens, so the cache alone is read: it holds them by then.
    """

    def keys(self, cache: Any, rows: Rows, piece: slice = EVERY) -> Tensor:
        """(b * Hkv, D, T)."""
        ...

    def values(self, cache: Any, rows: Rows, piece: slice = EVERY) -> Tensor:
        """(b * Hkv, T, D)."""
        ...

    def scores(self, asked: Tensor, cache: Any, rows: Rows) -> Tensor:
        """(B * Hkv, Q, T) of queries (B * Hkv, Q, D)."""
        ...

    def outputs(self, weights: Tensor, cache: Any, rows: Rows, width: int) -> Tensor:
        """(B * Hkv, Q, D) of weights (B * Hkv, Q, T); `width`: D."""
        ...


class Paged(Copies):
    """FLASH_ATTN, TRITON_ATTN, FLEX_ATTENTION: each token has its key and, behind it, its value."""

    def keys(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        return self._half(cache[..., : cache.shape[-1] // 2], rows, piece).mT

    def values(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        return self._half(cache[..., cache.shape[-1] // 2 :], rows, piece)

    @staticmethod
    def _half(half: Tensor, rows: Rows, piece: slice) -> Tensor:
        blocks = blocks_of(rows)[piece]
        batch, count = blocks.shape
        _, heads, size, width = half.shape
        found = half.index_select(0, blocks.flatten()).view(batch, count, heads, size, width).transpose(1, 2)
        return found.reshape(batch * heads, count * size, width).float()


class Columns(Copies):
    """CPU_ATTN: a block of a head is all its keys, one column a token, and then all its values, one row a token.

    So scores are sums of rows of keys, weighted by a query's numbers, and outputs sums of rows of values, weighted by
    a query's weights: both are read where they lie, a few times faster than they could be copied.
    """

    def keys(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        _, heads, size, width = cache.shape
        index = rows.memo.get("keys")
        if index is None:
            each = width // 2
            index = rows.memo["keys"] = self._blocks(cache, rows).unsqueeze(-2) * each + _range(each, rows)[:, None]
        index = index[piece]
        found = cache.view(-1, size).index_select(0, index.flatten())
        return found.view(len(index) * heads, width // 2, -1).float()

    def values(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        _, heads, size, width = cache.shape
        index = rows.memo.get("values")
        if index is None:
            index = rows.memo["values"] = self._blocks(cache, rows) + 1
        index = index[piece]
        found = cache.view(-1, size * width // 2).index_select(0, index.flatten())
        return found.view(len(index) * heads, -1, width // 2).float()

    def scores(self, asked: Tensor, cache: Tensor, rows: Rows) -> Tensor:
        heads, count, width = asked.shape
        if not _is_in_place(cache, count):
            return super().scores(asked, cache, rows)
        places = rows.memo.get(f"columns {count}")
        if places is None:
            block = self._blocks(cache, rows)[:, :, None, :, None].expand(-1, -1, count, -1, -1)
            index = (block * width + _range(width, rows)).view(-1, width)
            places = Places.of(index, heads * count)
            rows.memo[f"columns {count}"] = places
        numbers = asked.view(-1, width).index_select(0, places.queries)
        return weighted_sums(cache.view(-1, cache.shape[2]), places, numbers).view(heads, count, -1)

    def outputs(self, weights: Tensor, cache: Tensor, rows: Rows, width: int) -> Tensor:
        heads, count, keys = weights.shape
        if not _is_in_place(cache, count):
            return super().outputs(weights, cache, rows, width)
        places = rows.memo.get(f"rows {count}")
        if places is None:
            size = cache.shape[2]
            block = (self._blocks(cache, rows) + 1)[:, :, None, :, None].expand(-1, -1, count, -1, -1)
            index = (block * size + _range(size, rows)).view(-1, keys)
            places = rows.memo[f"rows {count}"] = Places.of(index, heads * count)
        return weighted_sums(cache.view(-1, width), places, weights).view(heads, count, width)

    @staticmethod
    def _blocks(cache: Tensor, rows: Rows) -> Tensor:
        """(B, Hkv, n) int32: where the keys of each block of a head lie, in units of such keys; its values lie behind.

        Half the memory of int64 for every index made of it, and enough for 2^31 rows: some 128 GB of a layer.
        """
        known = rows.memo.get("first keys")
        if known is None:
            blocks, heads = blocks_of(rows).int(), cache.shape[1]
            known = rows.memo["first keys"] = (blocks[:, None] * heads + _range(heads, rows)[:, None]) * 2
        found: Tensor = known
        return found


def _range(count: int, rows: Rows) -> Tensor:
    return torch.arange(count, device=rows.slots.device, dtype=torch.int32)


def _is_in_place(cache: Tensor, count: int) -> bool:
    """Sums of rows have the precision of what is summed, so a narrower cache is copied into float32."""
    return cache.dtype == torch.float32 and count <= _FEW


def blocks_of(rows: Rows) -> Tensor:
    """(B, n) long: the cache blocks of the rows' requests."""
    known = rows.memo.get("blocks")
    if known is None:
        if rows.blocks is None:
            raise RuntimeError("these rows have no blocks in the paged cache")
        known = rows.memo["blocks"] = rows.blocks.long()
    return known


def every_block(rows: Rows) -> Tensor:
    """(B * n,) long: the same, one request after the other."""
    known = rows.memo.get("every block")
    if known is None:
        known = rows.memo["every block"] = blocks_of(rows).reshape(-1)
    found: Tensor = known
    return found


READERS: dict[str, Reader] = {
    "CPU_ATTN": Columns(),
    "FLASH_ATTN": Paged(),
    "TRITON_ATTN": Paged(),
    "FLEX_ATTENTION": Paged(),
}
