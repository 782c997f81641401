"""A Triton kernel: one query of each row against all keys, as partial sums over groups of keys (see `merge`).

Keys and values are read once, in the layout of a contiguous cache; nothing of the size of the keys is written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounddecode.engines.grouped.launch import Launcher
from grounddecode.engines.grouped.merge import HIDDEN
from grounddecode.engines.grouped.peaks import Bound, towers

_PROGRAMS = 128  # about as many as a card has processors: fewer rows and heads share out their keys
_MOST_SPLITS = 8
_WARPS = {2: 8, 4: 4, 8: 4}  # of a program, by groups: what took least on an H100
_NO_BOUND = Bound(torch.empty(0), 0.0, (0, 0, 1, 1))


def splits_of(rows: int, heads: int) -> int:
    """In how many parts the keys of a row are read."""
    return max(1, min(_MOST_SPLITS, _PROGRAMS // (rows * heads)))


def _partial_attention(
    query: tl.tensor, key: tl.tensor, value: tl.tensor, flag: tl.tensor, hidden: tl.tensor, label: tl.tensor,
    dims: tl.tensor, sums: tl.tensor, tops: tl.tensor, masses: tl.tensor,
    scaling: tl.tensor, bound: tl.tensor, n_keys: tl.tensor, n_split: tl.tensor,
    label_stride: tl.tensor, flag_stride: tl.tensor,
    HEADS: tl.constexpr, REPEAT: tl.constexpr, SPLITS: tl.constexpr, WIDTH: tl.constexpr, ROOM: tl.constexpr,
    GROUPS: tl.constexpr, FLAGGED: tl.constexpr, BLOCK: tl.constexpr, NONE: tl.constexpr,
    INNER: tl.constexpr, DIMS: tl.constexpr, DIM_ROOM: tl.constexpr, INNER_BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """One program: one head of one row over its part of the keys. Flagged keys are `FLAGGED` groups further on.

    With `DIMS`, whether the newest key is flagged is found out here, by `peaks.towers`, and written down.
    """
    row, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    column, group = tl.arange(0, ROOM), tl.arange(0, GROUPS)
    real = column < WIDTH
    asked = tl.load(query + (row * HEADS + head) * WIDTH + column, mask=real, other=0.0).to(tl.float32) * scaling
    first = (row * (HEADS // REPEAT) + head // REPEAT) * n_keys
    top = -float("inf")
    mass = tl.zeros([GROUPS], tl.float32)
    total = tl.zeros([GROUPS, ROOM], tl.float32)
    if DIMS:
        newest = towers(hidden + row * INNER, dims, bound, INNER, DIMS, DIM_ROOM, INNER_BLOCK)
        tl.store(flag + row * flag_stride + n_keys - 1, newest, mask=(head == 0) & (split == 0))
    end = tl.minimum((split + 1) * n_split, n_keys)
    for start in range(split * n_split, end, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < end
        place = (first + at)[:, None] * WIDTH + column[None, :]
        wanted = inside[:, None] & real[None, :]
        mark = tl.load(label + row * label_stride + at, mask=inside, other=NONE).to(tl.int32)
        if FLAGGED:
            known = inside & (at < n_keys - 1) if DIMS else inside
            marked = tl.load(flag + row * flag_stride + at, mask=known, other=0).to(tl.int32)
            if DIMS:
                marked = tl.where(at == n_keys - 1, newest.to(tl.int32), marked)
            mark = tl.where(mark < NONE, mark + FLAGGED * marked, mark)
        score = tl.sum(tl.load(key + place, mask=wanted, other=0.0).to(tl.float32) * asked[None, :], axis=1)
        score = tl.where(mark < NONE, score, -float("inf"))
        higher = tl.maximum(top, tl.max(score, axis=0))
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        power = tl.exp(score - shift)
        power = tl.where(mark[None, :] == group[:, None], power[None, :], 0.0)
        keep = tl.exp(top - shift)
        mass = mass * keep + tl.sum(power, axis=1)
        read = tl.load(value + place, mask=wanted, other=0.0).to(tl.float32)
        total = total * keep + tl.sum(power[:, :, None] * read[None, :, :], axis=1)
        top = higher
    here = (row * HEADS + head) * SPLITS + split
    tl.store(tops + here, top)
    tl.store(masses + here * GROUPS + group, mass)
    spot = (here * GROUPS + group)[:, None] * WIDTH + column[None, :]
    tl.store(sums + spot, total, mask=real[None, :] & (group[:, None] >= 0))


_launches = Launcher(
    triton.jit(_partial_attention, do_not_specialize=("n_keys", "n_split", "label_stride", "flag_stride"))
)


class PartialAttention:
    """Partial sums of queries like one, by the kernel.

    Args:
        query: (rows, heads, 1, width), contiguous.  key: (rows, key heads, T, width), contiguous, as its value is.
        labels: (rows, T) uint8, the group of each key, `HIDDEN` for a key that may not be looked at.
        flagged: whether keys are flagged: a flagged key's group is that of its label and half the number more.
        scaling: of the scores.  into: what to fill, the `sums`, `tops` and `masses` of `merge.merged`, (rows, heads,
            splits, groups, ...); groups is 2, 4 or 8.
        newest: whether the newest token is flagged is to be found out by this, of tokens like that beside it.
    """

    __slots__ = ("_labels", "_launch")

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        labels: Tensor,
        flagged: bool,
        scaling: float,
        into: tuple[Tensor, ...],
        newest: tuple[Bound, Tensor] | None = None,
    ) -> None:
        sums = into[0]
        rows, heads, _, width = query.shape
        n_keys, splits, groups = key.shape[2], sums.shape[2], sums.shape[3]
        block = 64 // groups
        sizes = heads, heads // key.shape[1], splits, width, triton.next_power_of_2(width)
        of_groups = groups, groups // 2 if flagged else 0, block, HIDDEN
        bound, hidden = newest or (_NO_BOUND, query)
        marks = labels.bool() if flagged else labels
        share = -(-n_keys // splits)
        self._launch = _launches.over(
            (rows, heads, splits),
            (*sizes, *of_groups, *bound.constants),
            (query, key, key, marks, hidden),
            (labels, labels if newest is None else bound.dims, *into),
            (scaling, bound.least, n_keys, -(-share // block) * block, labels.stride(0), marks.stride(0)),
            _WARPS[groups],
        )
        self._labels = labels

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, flags: Tensor | None = None, hidden: Tensor | None = None
    ) -> None:
        """`flags`: (rows, T) bool, the last dimension dense; its last column is written with `newest`.

        `hidden`: (rows, 1, inner), contiguous, with `newest`.
        """
        if flags is None:
            self._launch(query, key, value, self._labels, query)
            return
        launch, stride = self._launch, flags.stride(0)
        if launch.numbers[-1] != stride:
            launch.numbers = *launch.numbers[:-1], stride
        launch(query, key, value, flags, query if hidden is None else hidden)
