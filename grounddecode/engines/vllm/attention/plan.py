"""The plan of a step for one group of layers, and the newest rows of requests: kept while only a token is added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.vllm.attention.step import Rows, last_prompt_rows, plan_rows
from grounddecode.engines.vllm.requests import NOBODY
from grounddecode.view import Phase, StepView

if TYPE_CHECKING:
    from grounddecode.engines.vllm.requests import Asked, Layout, Requests

_ROOM = 256  # keys by which a view that is kept grows


@dataclass
class Plan:
    """The rows of a step: edited ones, and last prompt rows that second streams ask about.

    `changes`: `Requests.changes` when it was made.  `decoding`: every request with methods is behind its prompt.
    """

    requests: Requests
    layout: Layout
    block_size: int
    rows: list[Rows]
    recorded: list[Rows]
    changes: int
    decoding: bool

    def __post_init__(self) -> None:
        self._until_new_block = self._steps()

    def _steps(self) -> int:
        """How many steps follow before one in which a request with methods comes to a new block."""
        lengths = self.layout.lengths[self.layout.slots != NOBODY]
        return int((-lengths % self.block_size).min(initial=self.block_size))

    def goes_on(self, layout: Layout, blocks: Tensor) -> bool:
        """Whether it is the plan of this step as well, and then it is: every request has come a token further."""
        same = self.decoding and self.changes == self.requests.changes and layout.follows(self.layout)
        if not same:
            return False
        table = None
        self._until_new_block -= 1
        self.layout = layout
        if self._until_new_block < 0:
            if any(layout.lengths.max() > rows.keys for rows in self.rows):
                return False
            table, self._until_new_block = blocks, self._steps()
        for rows in self.rows:
            rows.go_on(table)
        return True


def plan_of(
    requests: Requests, layout: Layout, blocks: Tensor, block_size: int, last: Plan | None = None
) -> Plan | None:
    """The plan of a step; None if methods have nothing to do with it.

    Args:
        blocks: (n or more, most blocks) cache blocks of each request, on the device.
        last: the plan of the step before, for the same layers.
    """
    if last is not None and last.requests is requests and last.goes_on(layout, blocks):
        return last
    slots = layout.slots
    found = plan_rows(requests, layout, blocks, block_size)
    recorded = last_prompt_rows(requests, layout, blocks, block_size)
    if not found and not recorded and not requests.streaming[slots].any():
        return None
    decoding = bool(((layout.past >= requests.sure[slots]) | (slots == NOBODY)).all()) and not recorded
    decoding = decoding and layout.starts[-1] == len(slots)
    return Plan(requests, layout, block_size, found, recorded, requests.changes, decoding)


class Newest:
    """The view of the newest row of some requests, for as long as they are there: what logits are adjusted with."""

    def __init__(self, requests: Requests, members: Sequence[Asked]) -> None:
        self._requests, self._device = requests, requests.image.device
        slots = torch.tensor([one.slot for one in members], device=self._device)
        self.places = torch.tensor([one.place for one in members], device=self._device)
        self._view = StepView(
            phase=Phase.MIXED,
            step=0,
            n_layers=requests.n_layers,
            slots=slots,
            queries=slots,
            keys=slots[:0],
            image=requests.image[slots, :0],
            image_end=requests.image_end[slots],
            prompt_length=requests.prompt_length[slots],
        )

    def view(self, lengths: np.ndarray) -> StepView:
        """`lengths`: (R,) their tokens."""
        keys = int(lengths.max())
        if keys > len(self._view.keys):
            room = min(-(-keys // _ROOM) * _ROOM, self._requests.image.shape[1])
            positions = torch.arange(room, device=self._device)
            self._view = self._view.with_(keys=positions, image=self._requests.image[self._view.slots, :room])
        return self._view.with_(
            queries=torch.from_numpy(np.asarray(lengths) - 1).to(self._device),
            keys=self._view.keys[:keys],
            image=self._view.image[:, :keys],
        )
