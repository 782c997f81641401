"""Keys and values of whole requests out of the paged cache, for each backend's way of storing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.step import Rows


class Reader(Protocol):
    """Reads (B * Hkv, D, T) keys and (B * Hkv, T, D) values, float32, of the requests of `rows` from one layer's cache.

    `cache`: (blocks, Hkv, block, 2 D), whatever its strides. A backend may be given no keys and values of the new
    tokens, so the cache alone is read: it holds them by then.
    """

    def read(self, cache: Tensor, rows: Rows) -> tuple[Tensor, Tensor]: ...


class Paged:
    """FLASH_ATTN, TRITON_ATTN, FLEX_ATTENTION: each token has its key and, behind it, its value."""

    def read(self, cache: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        batch, count = blocks_of(rows).shape
        _, heads, size, width = cache.shape
        both = cache.index_select(0, blocks_of(rows).flatten()).view(batch, count, heads, size, width).transpose(1, 2)
        both = both.reshape(batch * heads, count * size, width)
        half = width // 2
        return both[..., :half].mT.float(), both[..., half:].float()


class Columns:
    """CPU_ATTN: a block of a head is all its keys, one column a token, and then all its values, one row a token."""

    def read(self, cache: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        blocks = blocks_of(rows)
        batch, count = blocks.shape
        number, heads, size, width = cache.shape
        width //= 2
        known = rows.memo.get("columns")
        if known is None:
            known = rows.memo["columns"] = self._indices(blocks, heads, width)
        of_keys, of_values = known
        keys = cache.view(number * heads * 2 * width, size).index_select(0, of_keys)
        values = cache.view(number * heads * 2, size * width).index_select(0, of_values)
        return keys.view(batch * heads, width, count * size).float(), values.view(
            batch * heads, count * size, width
        ).float()

    @staticmethod
    def _indices(blocks: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor]:
        """Rows of the cache, laid out as rows of `block` numbers for keys and as blocks of a head for values."""
        of_head = torch.arange(heads, device=blocks.device)
        block = (blocks[:, None] * heads + of_head[:, None]) * 2  # (B, Hkv, n)
        column = torch.arange(width, device=blocks.device)[:, None]
        return (block[:, :, None] * width + column).flatten(), (block + 1).flatten()


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
