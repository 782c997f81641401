"""Keys and values of whole requests out of the paged cache, for each backend's way of storing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows


EVERY = slice(None)


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


class Paged:
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


class Columns:
    """CPU_ATTN: a block of a head is all its keys, one column a token, and then all its values, one row a token."""

    def keys(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        _, heads, size, width = cache.shape
        index = self._indices(cache, rows)[0][piece]
        found = cache.view(-1, size).index_select(0, index.flatten())
        return found.view(len(index) * heads, width // 2, -1).float()

    def values(self, cache: Tensor, rows: Rows, piece: slice = EVERY) -> Tensor:
        _, heads, size, width = cache.shape
        index = self._indices(cache, rows)[1][piece]
        found = cache.view(-1, size * width // 2).index_select(0, index.flatten())
        return found.view(len(index) * heads, -1, width // 2).float()

    @staticmethod
    def _indices(cache: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """By request: rows of the cache, laid out as rows of `block` numbers for keys and as blocks of a head for
        values."""
        known = rows.memo.get("columns")
        if known is None:
            blocks, heads, width = blocks_of(rows), cache.shape[1], cache.shape[3] // 2
            of_head = torch.arange(heads, device=blocks.device)
            block = (blocks[:, None] * heads + of_head[:, None]) * 2  # (B, Hkv, n)
            column = torch.arange(width, device=blocks.device)[:, None]
            known = (block[:, :, None] * width + column).flatten(1), (block + 1).flatten(1)
            rows.memo["columns"] = known
        found: tuple[Tensor, Tensor] = known
        return found


_PIECE = 3 * 2**19  # bytes of keys that a processor keeps near while it works on them


def pieces_of(rows: Rows, heads: int, width: int) -> list[slice]:
    """The requests of `rows` in pieces, one read and worked on after the other; on a GPU all are one.

    On a CPU what is read is a copy: one as large as the near cache costs half of one that goes through main memory.
    """
    known = rows.memo.get("pieces")
    if known is None:
        each = 4 * heads * width * rows.keys
        count = len(rows.slots) if rows.slots.is_cuda else max(1, _PIECE // each)
        known = rows.memo["pieces"] = [slice(i, i + count) for i in range(0, len(rows.slots), count)]
    found: list[slice] = known
    return found


def blocks_of(rows: Rows) -> Tensor:
    """(B, n) long: the cache blocks of the rows' requests."""
    known = rows.memo.get("blocks")
    if known is None:
        if rows.blocks is None:
            raise RuntimeError("these rows have no blocks in the paged cache")
        known = rows.memo["blocks"] = rows.blocks.long()
    return known


READERS: dict[str, Reader] = {
    "CPU_ATTN": Columns(),
    "FLASH_ATTN": Paged(),
    "TRITON_ATTN": Paged(),
    "FLEX_ATTENTION": Paged(),
}
