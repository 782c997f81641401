"""One attention call as a kernel is given it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf.transformers_names import SCALING, WINDOW

Output = tuple[Tensor, Tensor | None]
BaseAttention = Callable[..., Output]


@dataclass(slots=True)  # not frozen: one is made in every layer of every step, in a third of the time
class Call:
    """The tensors of one attention call. query (B, H, q, D); key (B, Hkv, T, D); value (B, Hkv, T, Dv)."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any]

    @property
    def scaling(self) -> float:
        given = self.options.get(SCALING)
        return float(given) if given is not None else 1.0 / math.sqrt(self.query.shape[-1])

    @property
    def window(self) -> int | None:
        """How many keys a query may look back upon, where the mask does not say."""
        return self.options.get(WINDOW)

    def base(self, function: BaseAttention, mask: Tensor | None) -> Output:
        return function(self.module, self.query, self.key, self.value, mask, **self.options)

    def queries(self, start: int, stop: int) -> Tensor:
        """(B, H, stop - start, D): some queries of this forward."""
        return self.query if stop - start == self.query.shape[2] else self.query[:, :, start:stop]

    def scaled(self, start: int, stop: int) -> Tensor:
        """`queries` times `scaling`, float32, in one operation: a factor of one element widens what it multiplies."""
        return (self.queries(start, stop) * _factor(self.scaling, self.query.device)).float()

    def times_keys(self, rows: Tensor) -> Tensor:
        """(B * Hkv, n, D) to (B * Hkv, n, T), float32."""
        return torch.bmm(rows, self.key.flatten(0, 1).float().mT)

    def times_values(self, rows: Tensor) -> Tensor:
        """(B * Hkv, n, T) to (B * Hkv, n, Dv), float32."""
        return torch.bmm(rows, self.value.flatten(0, 1).float())


@lru_cache(maxsize=64)
def _factor(scaling: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it outlives the caller's mode
        return torch.full((1,), scaling, dtype=torch.float32, device=device)
