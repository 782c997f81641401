"""How layers of one step go: decided with the first of those that have the same edits, for all that are called alike.

A step of one token costs what the host does in every layer, so nothing is asked there that has been answered before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from grounddecode.engines.hf.transformers_names import SCALING, SOFT_CAP, WANTS_WEIGHTS, WINDOW

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
    from grounddecode.engines.hf.step import Step
    from grounddecode.engines.plan import LayerPlan

    Act = Callable[[Call, BaseAttention, LayerPlan, Step], Output]


class Way:
    """`act` for all calls that are like one; `dense`: whose tensors lie in a row each, and no gradient is wanted."""

    __slots__ = ("_asked", "_dense", "_device", "_dtype", "_keys", "_mask", "_queries", "act")

    def __init__(self, act: Act, like: Call, dense: bool = False) -> None:
        self.act, self._dense, self._mask = act, dense, like.mask
        self._keys, self._queries, self._device = like.key.shape, like.query.shape, like.key.device
        self._dtype = like.query.dtype
        asked = like.options.get
        self._asked = asked(SCALING), asked(WINDOW), asked(SOFT_CAP), asked(WANTS_WEIGHTS)

    def fits(self, call: Call) -> bool:
        """Whether the call is like the one that it was decided with."""
        key, query, asked = call.key, call.query, call.options.get
        same = (
            call.mask is self._mask
            and key.shape == self._keys
            and query.shape == self._queries
            and query.dtype is self._dtype
            and key.device == self._device
            and (asked(SCALING), asked(WINDOW), asked(SOFT_CAP), asked(WANTS_WEIGHTS)) == self._asked
        )
        return same and (not self._dense or is_dense(call))


def is_dense(call: Call) -> bool:
    """Whether a kernel can read the tensors as they lie, and nobody takes gradients of what it gives."""
    query, key, value = call.query, call.key, call.value
    lie = query.is_contiguous() and key.is_contiguous() and value.is_contiguous() and key.shape == value.shape
    return lie and query.dtype is key.dtype is value.dtype and not torch.is_grad_enabled()
