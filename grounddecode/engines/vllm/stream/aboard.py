"""Second streams that read along in the main pass: kept while a step is the one before, a token later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grounddecode.engines.vllm.stream.passes import Pass

if TYPE_CHECKING:
    from grounddecode.engines.vllm.requests import Layout


class Aboard:
    """What a step has of second streams, if that is one new token each.

    Args:
        along: their rows of its pass.  layout: of the step.
        tokens: (B,) where among the tokens of the step each stream's token is, which is that of its request.
        are_all: no request of the step has a stream that reads otherwise, and would read along in the next one.
    """

    def __init__(self, along: Pass, layout: Layout, tokens: Sequence[int], are_all: bool) -> None:
        self.along, self._layout, self._tokens = along, layout, np.array(tokens)
        self._changes = along.worker.requests.changes if are_all else -1
        self._index: Tensor | None = None

    def goes_on(self, layout: Layout) -> bool:
        """Whether the same streams read one token more in this step, and then they do."""
        members = self.along.members
        if self._changes != self.along.worker.requests.changes or not layout.follows(self._layout):
            return False
        if max(stream.held for stream in members) >= self.along.cache.room:
            return False
        for stream in members:
            stream.held += 1
        self._layout = layout
        self.along.go_on()
        return True

    def joined(self, given: Tensor, dim: int) -> Tensor:
        """What the step is given by token, and behind it once more that of the streams' tokens."""
        tokens = given.shape[dim]
        if self._index is None or len(self._index) != tokens + len(self._tokens):
            self._index = torch.from_numpy(np.concatenate([np.arange(tokens), self._tokens])).to(given.device)
        return given.index_select(dim, self._index)
