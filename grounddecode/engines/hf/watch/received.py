"""Attention that every patch of every picture receives in one layer of a vision tower, from the calls of that layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grounddecode.engines.hf.attention.call import Call
from grounddecode.engines.hf.transformers_names import PACKED

if TYPE_CHECKING:
    from grounddecode.images.patches import Patches

Calls = list[Call]  # of one layer in one run


def has_summary(calls: Calls, patches: Patches) -> bool:
    """Whether the tower's first token of each picture is a class token.

    Raises:
        ValueError: the tower reads more or fewer tokens than there are patches.
    """
    tokens = sum(call.query.shape[0] * call.query.shape[2] for call in calls)
    expected, pictures = sum(patches.lengths), len(patches.lengths)
    if tokens == expected:
        return False
    if len(calls) == 1 and len(calls[0].query) == pictures and tokens == expected + pictures:
        return True
    raise ValueError(
        f"the vision tower reads {tokens} tokens where {pictures} images have {expected} patches by the configuration, "
        "use images of the size it was built for"
    )


def received(calls: Calls, patches: Patches, *, summary: bool, by_summary: bool) -> list[Tensor]:
    """Of each picture, (patches,) float32: attention received, mean over heads and over queries.

    The queries are those that see it, of all that the picture has: a patch that windows hide from others receives
    nothing of them. Padding asks nothing.

    Args:
        summary: a class token stands before the patches.  by_summary: it is the one query.
    """
    first, sums, asking = int(summary), [], []
    for query, key, scale, there in _parts(calls, patches):
        there = query.new_ones(query.shape[1], dtype=torch.bool) if there is None else there
        asks = there if first == 0 else there & (torch.arange(len(there), device=there.device) >= first)
        asks = torch.arange(1, device=there.device) if by_summary else asks
        sums.append(_sum(query, key, scale, there, asks)[first:])
        asking.append(there[first:])
    lengths = list(patches.lengths)
    found = zip(*(torch.split(torch.cat(x), lengths) for x in (sums, asking)), strict=True)
    return [x if by_summary else x / count.sum() for x, count in found]


def _parts(calls: Calls, patches: Patches) -> Iterator[tuple[Tensor, Tensor, float, Tensor | None]]:
    """Queries (heads, n, width) and keys of what attends among itself, the scale, and bool (n,): no padding."""
    for call in calls:
        if len(call.query) > 1:
            for row in range(len(call.query)):
                yield call.query[row], call.key[row], call.scaling, _there(call, row)
            continue
        parts = list(_cut(call, patches))
        there = _there(call, 0) if len(parts) == 1 else None  # pictures behind each other have no padding
        for query, key in parts:
            yield query, key, call.scaling, there


def _cut(call: Call, patches: Patches) -> Iterator[tuple[Tensor, Tensor]]:
    """Where pictures lie behind each other: by what the kernel is told, else by their lengths."""
    ends, count = call.options.get(PACKED), call.query.shape[2]
    lengths = [count]
    if ends is not None:
        lengths = ends.diff().tolist()
    elif count == sum(patches.lengths):
        lengths = list(patches.lengths)
    return zip(*(torch.split(x[0], lengths, dim=1) for x in (call.query, call.key)), strict=True)


def _there(call: Call, row: int) -> Tensor | None:
    """Bool (n,): keys that some query may look at; None: all."""
    if call.mask is None:
        return None
    mask = call.mask[min(row, len(call.mask) - 1)]
    if mask.dim() == 1:
        return mask.bool()
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return seen[0].any(dim=0)


def _sum(query: Tensor, key: Tensor, scale: float, there: Tensor, asks: Tensor) -> Tensor:
    """(n,): attention received, mean over heads, sum over the queries that ask; one picture at a time, for the memory.

    there: bool (n,), the keys.  asks: bool (n,) or numbers, the queries.
    """
    keys = key.float().repeat_interleave(query.shape[0] // key.shape[0], dim=0)
    scores = (query[:, asks].float() @ keys.mT * scale).masked_fill(~there, -torch.inf)
    return scores.softmax(dim=-1).mean(dim=0).sum(dim=0)
