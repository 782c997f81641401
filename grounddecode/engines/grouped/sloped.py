"""A Triton kernel: one query of each row against all keys, whose scores are scaled by two slopes a key or raised.

`Method.key_slopes` says by which: `z' = a_j z` where `z > 0`, `z' = b_j z` elsewhere. A factor on the weight of a key
raises its score by the factor's logarithm, `z' = z + c_j`. Scores and weights never leave the kernel, so a layer takes
one launch. Very long rows are read in parts, which `merge.merged` puts together.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounddecode.engines.grouped.kernel import splits_of
from grounddecode.engines.grouped.launch import Launcher
from grounddecode.engines.grouped.merge import merged

LONG = 4096  # keys that one program reads at most
_TILE, _WARPS = 32768, 8  # numbers of keys that a program reads at once, and its warps: what took least on an H100


def _sloped_attention(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, into: tl.tensor, tops: tl.tensor, masses: tl.tensor,
    slope: tl.tensor, scaling: tl.tensor, n_keys: tl.tensor, n_split: tl.tensor,
    row_stride: tl.tensor, side_stride: tl.tensor,
    HEADS: tl.constexpr, REPEAT: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, ROOM: tl.constexpr,
    BLOCK: tl.constexpr, RAISED: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one head of one row over its part of the keys.

    With `RAISED`, `slope` is what is added, -inf hides a key, and `side_stride` leads to the next head's.
    """
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, ROOM)
    real = column < WIDTH
    asked = tl.load(query + (row * HEADS + head) * WIDTH + column, mask=real, other=0.0).to(tl.float32) * scaling
    first = (row * (HEADS // REPEAT) + head // REPEAT) * n_keys
    top = -float("inf")
    mass = 0.0
    total = tl.zeros([ROOM], tl.float32)
    end = tl.minimum((split + 1) * n_split, n_keys)
    for start in range(split * n_split, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        place = (first + at)[:, None] * WIDTH + column[None, :]
        wanted = inside[:, None] & real[None, :]
        read = tl.load(value + place, mask=wanted, other=0.0).to(tl.float32)
        score = tl.sum(tl.load(key + place, mask=wanted, other=0.0).to(tl.float32) * asked[None, :], axis=1)
        if RAISED:
            own = slope + row * row_stride + head * side_stride
            score = score + tl.load(own + at, mask=inside, other=-float("inf"))
        else:
            above = tl.load(slope + row * row_stride + at, mask=inside, other=-1.0)
            below = tl.load(slope + row * row_stride + side_stride + at, mask=inside, other=-1.0)
            score = score * tl.where(score > 0.0, above, below)
            score = tl.where(above >= 0.0, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, axis=0))
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        power = tl.exp(score - shift)
        keep = tl.exp(top - shift)
        mass = mass * keep + tl.sum(power, axis=0)
        total = total * keep + tl.sum(power[:, None] * read, axis=0)
        top = higher
    here = (row * HEADS + head) * SPLITS + split
    if SPLITS == 1:
        tl.store(into + here * WIDTH + column, (total / mass).to(into.dtype.element_ty), mask=real)
    else:
        tl.store(into + here * WIDTH + column, total, mask=real)
        tl.store(tops + here, top)
        tl.store(masses + here, mass)


_launches = Launcher(
    triton.jit(_sloped_attention, do_not_specialize=("n_keys", "n_split", "row_stride", "side_stride"))
)


class SlopedAttention:
    """Edited attention of queries like one, by the kernel.

    Args:
        query: (rows, heads, 1, width), contiguous.  key: (rows, key heads, T, width), contiguous, as its value is.
        slopes: (rows, 2, T) float32, the last dimension dense: of scores above 0, and of others; negative: hidden.
        scaling: of the scores.
        raised: whether `slopes` is what scores are raised by, (rows, heads or 1, T) instead; -inf: hidden.
    """

    __slots__ = ("_launch", "_parts", "_shape")

    def __init__(self, query: Tensor, key: Tensor, slopes: Tensor, scaling: float, raised: bool = False) -> None:
        rows, heads, _, width = query.shape
        key_heads, n_keys = key.shape[1], key.shape[2]
        splits = 1 if n_keys <= LONG else splits_of(rows, heads)
        self._shape, shape = (rows, 1, heads, width), (rows, heads, splits)
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None  # of `merge.merged`
        if splits > 1:
            sums, masses = (query.new_empty((*shape, *more), dtype=torch.float32) for more in ((1, width), (1,)))
            self._parts = sums, query.new_empty(shape, dtype=torch.float32), masses
        room = triton.next_power_of_2(width)
        constants = heads, heads // key_heads, splits, width, room, _TILE // room, int(raised)
        into = self._parts or (query,) * 3
        share = n_keys if splits == 1 else -(-n_keys // splits)
        side = 0 if slopes.shape[1] == 1 else slopes.stride(1)
        numbers = scaling, n_keys, share, slopes.stride(0), side
        self._launch = _launches.over(shape, constants, (query, key, key, *into), (slopes,), numbers, _WARPS)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(rows, 1, heads, width) in the dtype of `query`."""
        into = query.new_empty(self._shape)
        if self._parts is None:
            self._launch(query, key, value, into, into, into)
            return into
        self._launch(query, key, value, *self._parts)
        return into.copy_(merged(*self._parts, torch.ones_like)[:, None])
