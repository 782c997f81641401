"""Attention of one query row with earlier keys and values as constants, written for batched backward passes.

Batched over K candidates, a plain matrix product would copy the keys and values K times; the products here take the
candidates as further rows of one product instead.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf.attention.call import Call

if TYPE_CHECKING:
    from grounddecode.engines.hf.step import Step


class _Product(torch.autograd.Function):
    """`rows @ matrix`; under vmap over `rows`, one product of all rows."""

    @staticmethod
    def forward(rows: Tensor, matrix: Tensor) -> Tensor:
        return rows @ matrix

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Nothing is kept: second derivatives are never asked for."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], rows: Tensor, matrix: Tensor) -> tuple[Tensor, int]:
        if in_dims[0] is None or in_dims[1] is not None:
            raise RuntimeError("only the rows of this product may be batched")
        moved = rows.movedim(in_dims[0], -3)
        product = (moved.flatten(-3, -2) @ matrix).view(*moved.shape[:-1], -1)
        return product, product.dim() - 3


def times_matrix(rows: Tensor, matrix: Tensor) -> Tensor:
    """(..., n, a) times (..., a, b)."""
    return _apply(_Product, rows, matrix)


def _apply(function: type[torch.autograd.Function], *given: Any) -> Tensor:
    apply: Callable[..., Tensor] = function.apply
    return apply(*given)


class _Scores(torch.autograd.Function):
    """`rows @ key^T`, whose gradient goes to the rows and to the newest key alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, newest: Tensor, key: Tensor, own: int) -> Tensor:
        ctx.save_for_backward(rows, key)
        ctx.own = own
        return rows @ key.mT

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, key = ctx.saved_tensors
        to_newest = (grad[..., ctx.own, None] * rows).sum(dim=-2, keepdim=True)
        return times_matrix(grad, key), to_newest, None, None


class _Sums(torch.autograd.Function):
    """`weights @ value`, whose gradient goes to the weights and to the newest value alone."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, newest: Tensor, value: Tensor, own: int) -> Tensor:
        ctx.save_for_backward(weights, value)
        ctx.own = own
        return weights @ value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, value = ctx.saved_tensors
        to_newest = (weights[..., ctx.own, None] * grad).sum(dim=-2, keepdim=True)
        return times_matrix(grad, value.mT), to_newest, None, None


class _Standing(torch.autograd.Function):
    """A value whose gradient goes to another tensor."""

    @staticmethod
    def forward(ctx: Any, row: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad, None


def standing(row: Tensor, value: Tensor) -> Tensor:
    """`value`, which stands for `row` where they are the same but for rounding: gradients go to `row`."""
    return _apply(_Standing, row, value)


def lowers(device: torch.device) -> bool:
    """Whether products are made in half precision there now, whatever they are given."""
    return torch.is_autocast_enabled(device.type)


def wide(device: torch.device) -> AbstractContextManager[Any]:
    """Context in which they are not."""
    return torch.autocast(device.type, enabled=False) if lowers(device) else nullcontext()


def own_column(step: Step, keys: int) -> int:
    """Column of the last row's own key among `keys`: the last one, or its position in a static cache."""
    return step.total - 1 - max(0, step.total - keys)


def last_row(call: Call) -> Call:
    """The call of the last row alone, a copy of its query: the rest of the queries may go."""
    return replace(call, query=call.query[:, :, -1:].clone())


@dataclass(slots=True)
class LastRowCall(Call):
    """An attention call of the last row alone, query (B, H, 1, D), against all keys.

    `newest_key`, `newest_value` (B, Hkv, 1, D): the row's own, in the graph; they stand in column `own`.
    """

    newest_key: Tensor
    newest_value: Tensor
    own: int

    @classmethod
    def of(cls, call: Call, source: Call, newest_key: Tensor, newest_value: Tensor, step: Step) -> LastRowCall:
        """The query of `call` against keys, values and mask of `source`."""
        return cls(
            module=call.module,
            query=call.query,
            key=source.key.detach(),
            value=source.value.detach(),
            mask=source.mask,
            options=source.options,
            newest_key=newest_key,
            newest_value=newest_value,
            own=own_column(step, source.key.shape[2]),
        )

    def queries(self, start: int, stop: int) -> Tensor:
        return self.query

    def times_keys(self, rows: Tensor) -> Tensor:
        return _apply(_Scores, rows, self.newest_key.flatten(0, 1).float(), self.key.flatten(0, 1).float(), self.own)

    def times_values(self, rows: Tensor) -> Tensor:
        newest, all_values = self.newest_value.flatten(0, 1).float(), self.value.flatten(0, 1).float()
        return _apply(_Sums, rows, newest, all_values, self.own)


@dataclass(slots=True)
class KeptCall(Call):
    """An attention call of one token a row, without a graph, that keeps what it multiplied, in float32.

    asked (B * Hkv, H / Hkv, D), the scaled queries; wide_keys, wide_values (B * Hkv, T, D).
    """

    asked: Tensor = field(init=False)
    wide_keys: Tensor = field(init=False)
    wide_values: Tensor = field(init=False)

    @classmethod
    def of(cls, call: Call) -> KeptCall:
        query, key, value = call.query.detach(), call.key.detach(), call.value.detach()
        return cls(call.module, query, key, value, call.mask, call.options)

    def times_keys(self, rows: Tensor) -> Tensor:
        self.asked, self.wide_keys = rows, self.key.flatten(0, 1).float()
        return torch.bmm(rows, self.wide_keys.mT)

    def times_values(self, rows: Tensor) -> Tensor:
        self.wide_values = self.value.flatten(0, 1).float()
        return torch.bmm(rows, self.wide_values)
