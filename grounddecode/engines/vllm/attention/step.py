"""The plan of one step: which query rows are edited, made once on the host and shared by all layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.rows import finite
from grounddecode.engines.vllm.requests import Group, Layout, Requests
from grounddecode.view import LaidOut, Phase, StepView

MOST = 256  # query rows of one request that are computed at a time


@dataclass
class Part:
    """Requests of one group within a batch of rows: `start:stop` of its requests."""

    group: Group
    start: int
    stop: int
    every_row: bool
    known: StepView | None = None


@dataclass
class Rows:
    """Edited rows of some requests, `count` queries each (those of shorter requests are filled up), sorted by group.

    `tokens`: (B * count,) index of each query among the tokens of the step.  `queries`: (B, count) positions.
    `real`: (R,) index of the rows that are no filling, None if all are real.  `slots`: (B,) of the requests.
    `keys`: how many keys are read.  `blocks`: (B, n) cache blocks that hold them.  `at`: (B,) whose rows of the table
    of blocks.  `unseen`: (B, keys) keys hidden from every query.  `whole`: these are all rows of the step, `straight`:
    and in its order.
    """

    requests: Requests
    parts: list[Part]
    count: int
    tokens: Tensor
    queries: Tensor
    real: Tensor | None
    slots: Tensor
    keys: int
    blocks: Tensor | None = None
    at: Tensor | None = None
    unseen: Tensor | None = None
    whole: bool = False
    straight: bool = False
    memo: dict[str, Any] = field(default_factory=dict)  # what the layers share, e.g. where in a cache the keys lie
    masks: dict[int | None, Tensor] = field(default_factory=dict)  # see `mask`
    biases: dict[tuple[tuple[bool, ...], int | None], Tensor] = field(default_factory=dict)
    _some: dict[tuple[int, ...], Rows | None] = field(default_factory=dict)

    @cached_property
    def positions(self) -> Tensor:
        return torch.arange(self.keys, device=self.slots.device)

    @cached_property
    def hidden(self) -> Tensor:
        """Bool (B, 1, count, T): keys behind their query, and those that are hidden from all."""
        behind = self.positions > self.queries[..., None]
        return (behind if self.unseen is None else behind | self.unseen[:, None])[:, None]

    def of_step(self, given: Tensor) -> Tensor:
        """(B * count, ...): what of something by token of the step, (tokens, ...), is theirs."""
        if not self.straight:
            return given.index_select(0, self.tokens)
        count = self.tokens.shape[0]
        return given if given.shape[0] == count else given[:count]

    def into_step(self, edited: Tensor, output: Tensor) -> None:
        """Put what is theirs, (B * count, ...), into that of the step, (tokens, ...); numbers that are none are 0."""
        edited = edited.to(output.dtype)
        if self.straight:
            torch.nan_to_num(edited, 0.0, 0.0, 0.0, out=self.of_step(output))
        elif self.real is None:
            output.index_copy_(0, self.tokens, finite(edited))
        else:
            output.index_copy_(0, self.tokens[self.real], finite(edited[self.real]))

    def go_on(self, table: Tensor | None) -> None:
        """The next step: each query is a token further. `table`: of blocks, if a request has come to a new one."""
        self.queries = self.queries + 1
        vars(self).pop("hidden", None)
        self.biases.clear()
        mask = self.masks.get(None) if self.unseen is None else None
        self.masks = {} if mask is None else {None: mask.scatter_(3, self.queries.view(-1, 1, self.count, 1), 0.0)}
        for part in self.parts:
            if part.known is not None:
                part.known = part.known.with_(queries=self.queries[part.start : part.stop].flatten())
        if table is not None and self.blocks is not None:
            self.blocks = table[self.at, : self.blocks.shape[1]]
            self.memo.clear()
            self._some.clear()
        for some in self._some.values():
            if some is not None:
                some.go_on(None)

    def mask(self, window: int | None) -> Tensor:
        """(B, 1, count, T): -inf on keys hidden from a query, 0 on others; `window`: how many it sees, all if None."""
        known = self.masks.get(window)
        if known is None:
            hidden = self.hidden
            if window is not None:
                hidden = hidden | (self.positions <= self.queries[..., None] - window)[:, None]
            known = torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)
            self.masks[window] = known
        return known

    def of_layer(self, layer: int) -> Rows | None:
        """The rows that an edit of this layer concerns; None if there are none."""
        acting = tuple(i for i, part in enumerate(self.parts) if part.group.layers[layer].edits)
        if len(acting) == len(self.parts):
            return self
        if acting not in self._some:
            self._some[acting] = self._select(acting) if acting else None
        return self._some[acting]

    def _select(self, acting: tuple[int, ...]) -> Rows:
        chosen = [self.parts[i] for i in acting]
        index = torch.cat([torch.arange(p.start, p.stop) for p in chosen]).to(self.slots.device)
        parts, begin = [], 0
        for part in chosen:
            parts.append(Part(part.group, begin, begin + part.stop - part.start, part.every_row))
            begin = parts[-1].stop
        real = None
        if self.real is not None:
            there = torch.zeros(len(self.tokens), dtype=torch.bool, device=self.real.device)
            there[self.real] = True
            real = there.view(-1, self.count)[index].flatten().nonzero()[:, 0]
        return Rows(
            self.requests, parts, self.count, self.tokens.view(-1, self.count)[index].flatten(), self.queries[index],
            real, self.slots[index], self.keys,
            blocks=None if self.blocks is None else self.blocks[index],
            at=None if self.at is None else self.at[index],
            unseen=None if self.unseen is None else self.unseen[index],
        )  # fmt: skip

    def view(self, part: Part, flags: Tensor | None = None) -> StepView:
        """What methods see of the rows of one part; `flags` (B, T) of the layer."""
        if part.known is None:
            part.known = self._make_view(part)
        if flags is None:
            return part.known
        flags = flags if len(self.parts) == 1 else flags[part.start : part.stop]
        return part.known.with_(flags=_repeated(flags, self.count), memo=part.known.memo)

    def _make_view(self, part: Part) -> StepView:
        slots = self.slots[part.start : part.stop]
        requests, slots = self.requests, _repeated(slots, self.count)
        image = requests.image[:, : self.keys]
        if image.shape[1] < self.keys:  # the last block may reach behind the longest sequence there can be
            image = torch.nn.functional.pad(image, (0, self.keys - image.shape[1]))
        image = image[slots]
        return StepView(
            phase=Phase.MIXED,
            step=0,
            n_layers=requests.n_layers,
            slots=slots,
            queries=self.queries[part.start : part.stop].flatten(),
            keys=self.positions,
            image=image,
            image_end=requests.image_end[slots],
            prompt_length=requests.prompt_length[slots],
            every_row=part.every_row,
            laid_out=_once_of(image),
        )


def _once_of(image: Tensor) -> LaidOut:
    """`StepView.of_image` for as long as rows have this image, which may be many steps."""
    kept: dict[Hashable, Tensor] = {}

    def laid_out(function: Callable[..., Tensor], *args: Hashable) -> Tensor:
        known = kept.get((function, args))
        if known is None:
            known = kept[function, args] = function(image, *args)
        return known

    return laid_out


def _repeated(rows: Tensor, count: int) -> Tensor:
    return rows if count == 1 else rows.repeat_interleave(count, dim=0)


def plan_rows(requests: Requests, layout: Layout, blocks: Tensor, block_size: int) -> list[Rows]:
    """Edited rows of a step: those of one query a request, and those of several.

    Args:
        blocks: (n or more, most blocks) cache blocks of each request, on the device.
    """
    slots, starts, lengths, past = layout.slots, layout.starts, layout.lengths, layout.past
    first = requests.first[slots]
    begin = np.maximum(first, past)
    count = lengths - begin
    edited = (count > 0).nonzero()[0]
    if not len(edited):
        return []
    edited = edited[np.argsort(requests.order[slots[edited]], kind="stable")]
    single = count[edited] == 1
    found = []
    for rows in (edited[single], edited[~single]):
        if len(rows):
            found += _in_pieces(requests, rows, slots, starts[:-1] - past, begin, lengths, blocks, block_size)
    if len(found) == 1 and found[0].count == 1 and len(edited) == len(slots) == starts[-1]:
        found[0].whole = True
        found[0].straight = bool((edited[1:] > edited[:-1]).all())
    return found


def _in_pieces(
    requests: Requests, rows: np.ndarray, slots: np.ndarray, offset: np.ndarray, begin: np.ndarray,
    lengths: np.ndarray, blocks: Tensor, block_size: int,
) -> list[Rows]:  # fmt: skip
    """Rows of these requests, a bounded number of queries at a time. `offset`: a token's index minus its position."""
    found = []
    for piece in range(0, int((lengths - begin)[rows].max()), MOST):
        start = begin[rows] + piece
        here = rows[start < lengths[rows]]
        start = begin[here] + piece
        stop = np.minimum(start + MOST, lengths[here])
        found.append(_rows(requests, here, slots[here], offset[here], start, stop, blocks, block_size))
    return found


def rows_at(
    requests: Requests, slots: np.ndarray, queries: np.ndarray, batch_rows: np.ndarray, blocks: Tensor, block_size: int
) -> Rows:
    """One row of each of some requests of one group. `batch_rows`: which rows of `blocks` are theirs."""
    none = np.zeros(len(slots), dtype=np.int64)
    return _rows(requests, batch_rows, slots, none - queries, queries, queries + 1, blocks, block_size)


def _rows(
    requests: Requests, rows: np.ndarray, slots: np.ndarray, offset: np.ndarray, start: np.ndarray, stop: np.ndarray,
    blocks: Tensor, block_size: int,
) -> Rows:  # fmt: skip
    device = blocks.device
    count = int((stop - start).max())
    positions = start[:, None] + np.arange(count)
    real = (positions < stop[:, None]).flatten()
    positions = np.minimum(positions, stop[:, None] - 1)
    sent = np.concatenate([positions.flatten(), (positions + offset[:, None]).flatten(), slots, rows])
    given = torch.from_numpy(sent).to(device, non_blocking=True)  # one copy for all of them
    n, many = len(rows), len(rows) * count
    needed = -(-int(stop.max()) // block_size)
    return Rows(
        requests=requests,
        parts=parts_of(requests, slots, start),
        count=count,
        tokens=given[many : 2 * many],
        queries=given[:many].view(n, count),
        real=None if real.all() else torch.from_numpy(real.nonzero()[0]).to(device, non_blocking=True),
        slots=given[2 * many : 2 * many + n],
        keys=needed * block_size,
        blocks=blocks[given[2 * many + n :], :needed],
        at=given[2 * many + n :],
    )


def parts_of(requests: Requests, slots: np.ndarray, start: np.ndarray) -> list[Part]:
    """Runs of requests of one group; `start`: position of the first row of each."""
    order = requests.order[slots]
    cuts = [0, *((order[1:] != order[:-1]).nonzero()[0] + 1), len(order)]
    sure = start >= requests.sure[slots]
    parts = []
    for begin, end in pairwise(cuts):
        asked = requests.by_slot[int(slots[begin])]
        if asked is None:
            raise RuntimeError("a request that has ended is among the edited rows")
        parts.append(Part(asked.group, int(begin), int(end), bool(sure[begin:end].all())))
    return parts


def last_prompt_rows(requests: Requests, layout: Layout, blocks: Tensor, block_size: int) -> list[Rows]:
    """The last prompt row of every request with a second stream whose prompt ends in this step."""
    slots, past = layout.slots, layout.past
    last = requests.last[slots]
    here = (requests.streaming[slots] & (past <= last) & (last < layout.lengths)).nonzero()[0]
    if not len(here):
        return []
    here = here[np.argsort(requests.order[slots[here]], kind="stable")]
    offset = layout.starts[:-1] - past
    return [_rows(requests, here, slots[here], offset[here], last[here], last[here] + 1, blocks, block_size)]


def groups_of(plan: Sequence[Rows]) -> list[Group]:
    """Every group that has a row in the plan."""
    return list({id(part.group): part.group for rows in plan for part in rows.parts}.values())
