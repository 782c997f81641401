"""A Triton kernel: what `merge.merged` does, for methods whose factors follow one of the rules it knows.

One launch in place of a graph's and of a copy of what that gives (see `maths.FactorRule` for the rules).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from grounddecode.engines.grouped.launch import Launcher
from grounddecode.engines.grouped.merge import merged

if TYPE_CHECKING:
    from grounddecode.maths import FactorRule
    from grounddecode.method import Method

_RULES = {"ranked": 0, "least": 1, "moved": 2}
_CLOSE, _TRIALS = 1e-5, 3  # rounding in float32, relative and absolute


def _merge(
    into: tl.tensor,
    sums: tl.tensor,
    tops: tl.tensor,
    masses: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_ROOM: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLIT_ROOM: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROOM: tl.constexpr,
    RULE: tl.constexpr,
) -> None:
    """One program: one head of one row, which looks at the masses of all heads of its row."""
    row, own = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, split = tl.arange(0, HEAD_ROOM), tl.arange(0, SPLIT_ROOM)
    group, column = tl.arange(0, GROUPS), tl.arange(0, ROOM)
    place = (row * HEADS + head)[:, None] * SPLITS + split[None, :]
    there = (head < HEADS)[:, None] & (split < SPLITS)[None, :]
    top = tl.load(tops + place, mask=there, other=-float("inf"))
    highest = tl.max(top, axis=1)
    scale = tl.where(there, tl.exp(top - tl.where(head < HEADS, highest, 0.0)[:, None]), 0.0)
    mass = tl.load(masses + place[:, :, None] * GROUPS + group[None, None, :], mask=there[:, :, None], other=0.0)
    mass = tl.sum(mass * scale[:, :, None], axis=1)
    total = tl.sum(mass, axis=1)
    share = mass / tl.where(head < HEADS, total, 1.0)[:, None]
    mine = head == own
    weight = tl.sum(tl.where(mine[:, None], share, 0.0), axis=0)
    image = tl.sum(tl.where(group[None, :] == 1, share, 0.0), axis=1)
    looks = tl.sum(tl.where(mine, image, 0.0), axis=0)
    if RULE == 0:
        extra = tl.sum(tl.where((head < HEADS) & (image <= looks), 1.0, 0.0), axis=0) * first
        factor = tl.where(group == 1, 1.0 + extra, 1.0) / (1.0 + extra * looks)
    elif RULE == 1:
        before = (image > looks) | ((image == looks) & (head < own))
        order = tl.sum(tl.where((head < HEADS) & before, 1.0, 0.0), axis=0)
        least = (order >= first) & (tl.max(tl.where(head < HEADS, image, 0.0), axis=0) > 0.0)
        factor = tl.where(least, second, 1.0) + tl.zeros([GROUPS], tl.float32)
    else:
        sinks = tl.sum(tl.where(group >= 2, weight, 0.0), axis=0)
        seen = looks + tl.sum(tl.where(group == 3, weight, 0.0), axis=0)
        moved = tl.where((seen >= third) & (looks >= second * seen), first, 0.0)
        raised = 1.0 + moved * sinks / tl.where(looks > 0.0, looks, 1.0)
        factor = tl.where(group >= 2, 1.0 - moved, tl.where(group == 1, raised, 1.0))
    factor = factor / tl.sum(tl.where(mine, total, 0.0), axis=0)
    peak = tl.sum(tl.where(mine, highest, 0.0), axis=0)
    real = column < WIDTH
    found = tl.zeros([ROOM], tl.float32)
    for at in range(SPLITS):
        here = (row * HEADS + own) * SPLITS + at
        spot = (here * GROUPS + group)[:, None] * WIDTH + column[None, :]
        part = tl.load(sums + spot, mask=real[None, :] & (group >= 0)[:, None], other=0.0)
        found += tl.exp(tl.load(tops + here) - peak) * tl.sum(part * factor[:, None], axis=0)
    tl.store(into + (row * HEADS + own) * WIDTH + column, found.to(into.dtype.element_ty), mask=real)


_launches = Launcher(triton.jit(_merge))


class Merging:
    """Edited attention from partial sums, by the kernel.

    Args:
        parts: the `sums`, `tops` and `masses` of `merge.merged`, which are read at each call.
        rule: of the factors.  dtype: of what is returned.
    """

    __slots__ = ("_launch", "_shape")

    def __init__(self, parts: tuple[Tensor, Tensor, Tensor], rule: FactorRule, dtype: torch.dtype) -> None:
        rows, heads, splits, groups, width = parts[0].shape
        rooms = heads, triton.next_power_of_2(heads), splits, triton.next_power_of_2(splits)
        constants = (*rooms, groups, width, triton.next_power_of_2(width), _RULES[rule.name])
        self._shape = rows, 1, heads, width
        numbers = (*(float(x) for x in rule.numbers), 0.0, 0.0)[:3]
        like = (parts[0].new_empty(0, dtype=dtype),)
        self._launch = _launches.over((rows, heads, 1), constants, like, parts, numbers)

    def __call__(self, like: Tensor) -> Tensor:
        """(rows, 1, heads, width); `like`: any tensor of the dtype and device."""
        into = like.new_empty(self._shape)
        self._launch(into)
        return into


def merging(parts: tuple[Tensor, Tensor, Tensor], method: Method, dtype: torch.dtype) -> Merging | None:
    """The kernel for a method, if its rule is what its factors are; shown on random parts, which are overwritten.

    A class of a user's may change the factors of one of ours and say nothing of the rule.
    """
    rule = method.factor_rule(parts[0].shape[1])
    if rule is None:
        return None
    known = _says_as(Merging(parts, rule, torch.float32), parts, method)
    return Merging(parts, rule, dtype) if known else None


def _says_as(kernel: Merging, parts: tuple[Tensor, Tensor, Tensor], method: Method) -> bool:
    draw = torch.Generator().manual_seed(0)
    for _ in range(_TRIALS):
        for part in parts:
            part.copy_(torch.rand(part.shape, generator=draw))
        wanted = merged(*parts, method.group_factors)[:, None]
        if not torch.allclose(kernel(parts[0]), wanted, rtol=_CLOSE, atol=_CLOSE):
            return False
    return True
