"""The way back through decoder blocks as Llama has them, for single query rows, written out.

A block is `y = x + attention(norm(x))`, then `y + down(silu(gate(n)) * up(n))` with `n = norm(y)`. Norms divide by the
root mean square, queries and keys are turned by a rotary embedding, heads may share keys. Earlier keys and values are
constants. The same as autograd gives, in a third of the operations: small models and fast cards wait for little else.
What does not depend on gradients is made for all blocks at once, all gradients of a row share one way, and nothing of
it needs a graph. Neither engine is known here. Nothing is read from the device nor copied to it, so that a CUDA graph
can hold all of it (`stage`).

Shapes: R rows, each with K gradients; H heads of D numbers, Hkv of them with keys and values of their own, T of each.
Gradients and what is made of them have the dtype of the keys (the wide one: float32 in the engines), products with the
weights of a linear layer that of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Products:
    """Weights (out, in) of the linear layers of a block; those that read the same may be one matrix or several."""

    attention: Sequence[Tensor]  # of queries, keys and values, in this order
    out: Tensor
    inner: Sequence[Tensor]  # of what goes through SiLU, and of its factor
    down: Tensor


@dataclass(frozen=True)
class Norm:
    """A root mean square norm, by its weight (width,)."""

    weight: Tensor
    epsilon: float


@dataclass(frozen=True)
class Turn:
    """What turns gradients of turned queries and keys back, (R, D, D) each; that for queries scales, too."""

    queries: Tensor
    keys: Tensor

    @classmethod
    def of(cls, rotation: Tensor, scale: float) -> Turn:
        """From what the embedding makes of the rows of the identity, (R, D, D), and the factor of the scores."""
        back = rotation.mT
        return cls(back * scale, back)


@dataclass
class Passed:
    """What the way back through one block needs of the way up."""

    layer: int
    products: Products
    norms: tuple[Norm, Norm]
    totals: tuple[Tensor, Tensor]  # (R, width), what each norm was given
    gate: Tensor  # (R, inner), before SiLU
    factor: Tensor  # (R, inner)
    keys: Tensor  # (R * Hkv, T, D)
    values: Tensor  # (R * Hkv, T, D)
    asked: Tensor  # (R * Hkv, H / Hkv, D), scaled queries
    weights: Tensor  # (R * Hkv, H / Hkv, T), edited by nothing but gains on keys
    own: int | Tensor  # the column of the rows' own keys, or (1,) that column, or (R, 1) of each
    turn: Turn


@dataclass
class Way:
    """The blocks that rows passed, ascending, and the norm behind the last: its input is `total` (R, width)."""

    passed: Sequence[Passed]
    norm: Norm
    total: Tensor


def down(way: Way, start: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """(R, K, T) of each wanted layer: |A * dA| summed over heads, A its attention weights.

    Args:
        start: (R, K, width), K gradients of the last hidden states of each row.
        wanted: layers, ascending, all of them among those of `way`.

    Raises:
        ValueError: one of them is not.
    """
    missing = sorted({*wanted} - {here.layer for here in way.passed})
    if missing:
        raise ValueError(f"layers {missing} are wanted, and the way starts at {way.passed[0].layer}")
    passed = [here for here in way.passed if here.layer >= wanted[0]]
    *norms, last = _norms_back(passed, way)
    slopes = _slopes(passed)
    grad, found = last.of(start.to(passed[0].keys.dtype)), []
    for at in range(len(passed) - 1, -1, -1):
        here, products = passed[at], passed[at].products
        inner = _through(grad, [products.down])
        inner = (inner[:, :, None] * slopes[at]).flatten(2)
        grad = norms[2 * at + 1].of(_through(inner, products.inner), grad)
        delta = _by_group(_through(grad, [products.out]), here.values)
        moved = _weighted(here, delta)
        if here.layer in wanted:
            found.append(sizes(moved, len(start)))
        if at:
            grad = norms[2 * at].of(_through(_attention_back(here, moved, delta, len(start)), products.attention), grad)
    return found[::-1]


def towards(values: Tensor, delta: Tensor) -> Tensor:
    """(R * Hkv, K, H / Hkv, T): gradients of attention weights, from those of the attention's output.

    Args:
        values: (R * Hkv, T, D).  delta: (R, K, H * D).
    """
    found = torch.bmm(_by_group(delta, values), values.mT)
    return found.view(len(values), delta.shape[1], -1, values.shape[1])


def sizes(moved: Tensor, rows: int) -> Tensor:
    """(R, K, T): summed size over heads of weights times their gradients (R * Hkv, K, H / Hkv, T)."""
    return moved.abs().view(rows, -1, *moved.shape[1:]).sum(dim=(1, 3))  # on a CPU a third of vector_norm's time


@dataclass
class _NormBack:
    """Gradients `g` of an output become `g * gain - away * <g, along>`: (R, 1, width), (R, width, 1), (R, 1, width)."""

    gain: Tensor
    along: Tensor
    away: Tensor

    def of(self, grad: Tensor, onto: Tensor | None = None) -> Tensor:
        """(R, K, width), added to `onto`: what goes past the norm."""
        grad = grad.to(self.gain.dtype)
        share = torch.bmm(grad, self.along)
        found = grad * self.gain if onto is None else torch.addcmul(onto, grad, self.gain)
        return found.baddbmm_(share, self.away, alpha=-1.0)


def _norms_back(passed: Sequence[Passed], way: Way) -> list[_NormBack]:
    """Of the two norms of each block, and of the one behind the last."""
    norms = [*(norm for here in passed for norm in here.norms), way.norm]
    wide = passed[0].keys.dtype
    totals = torch.stack([*(total for here in passed for total in here.totals), way.total]).to(wide)
    weights = torch.stack([norm.weight for norm in norms]).to(wide)[:, None]
    square = totals.square().mean(dim=-1, keepdim=True)
    epsilons = [norm.epsilon for norm in norms]
    if len(set(epsilons)) > 1:  # made on the device: a graph that is recorded can copy nothing from the host
        square = square + torch.cat([square.new_full((1, 1, 1), epsilon) for epsilon in epsilons])
    else:
        square = square + epsilons[0]
    scale = torch.rsqrt(square)
    gain = weights * scale
    away = totals * (scale.square() / totals.shape[-1])
    along = gain * totals
    return [_NormBack(g[:, None], x[..., None], a[:, None]) for g, x, a in zip(gain, along, away, strict=True)]


def _slopes(passed: Sequence[Passed]) -> Tensor:
    """(blocks, R, 1, 2, inner): what the product behind SiLU gives a unit of what went in, and of its factor."""
    wide = passed[0].keys.dtype
    gate = torch.stack([here.gate for here in passed]).to(wide)
    factor = torch.stack([here.factor for here in passed]).to(wide)
    share = torch.sigmoid(gate)
    passing = gate * share
    slope = torch.addcmul(share, passing, 1.0 - share).mul_(factor)
    return torch.stack([slope, passing], dim=2).to(passed[0].products.down.dtype)[:, :, None]


def _through(grad: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(R, K, in): gradients of what linear layers read, from those of all they gave, (R, K, out) beside each other."""
    rows = grad.to(weights[0].dtype).flatten(0, 1)
    parts = torch.split(rows, [len(weight) for weight in weights], dim=-1)
    found = parts[0] @ weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found = found.addmm_(part, weight)
    return found.view(*grad.shape[:2], -1)


def _by_group(delta: Tensor, values: Tensor) -> Tensor:
    """(R * Hkv, K * H / Hkv, D), in the dtype of values, of (R, K, H * D): heads that share keys beside each other."""
    rows, count, _ = delta.shape
    grouped = delta.view(rows, count, len(values) // rows, -1).transpose(1, 2)
    grouped = grouped.to(values.dtype, memory_format=torch.contiguous_format)
    return grouped.reshape(len(values), -1, values.shape[-1])


def _weighted(here: Passed, delta: Tensor) -> Tensor:
    """(R * Hkv, K, H / Hkv, T): attention weights times their gradients; `delta` as `_by_group` gives it."""
    groups, shared, keys = here.weights.shape
    found = torch.bmm(delta, here.values.mT).view(groups, -1, shared, keys)
    return found.mul_(here.weights[:, None])


def _attention_back(here: Passed, moved: Tensor, delta: Tensor, rows: int) -> Tensor:
    """(R, K, (H + 2 * Hkv) * D): gradients of queries, keys and values as the linear layers gave them."""
    groups, count, shared, keys = moved.shape
    size = here.keys.shape[-1]
    slope = torch.addcmul(moved, here.weights[:, None], moved.sum(dim=-1, keepdim=True), value=-1)  # of the scores
    query = torch.bmm(slope.view(groups, -1, keys), here.keys)
    key = torch.bmm(_column(slope, here.own), here.asked)
    value = delta.view(groups, count, shared, size) * _column(here.weights, here.own)[:, None, :, None]
    query = torch.bmm(query.view(rows, -1, size), here.turn.queries)
    key = torch.bmm(key.view(rows, -1, size), here.turn.keys)
    value = value.sum(dim=2) if shared > 1 else value
    own = groups // rows
    found = query.new_empty(rows, count, own * (shared + 2) * size, dtype=here.products.out.dtype)
    places = torch.split(found, [x * size * own for x in (shared, 1, 1)], dim=-1)
    for part, place in zip((query, key, value), places, strict=True):
        place.view(rows, count, own, -1).copy_(part.view(rows, own, count, -1).transpose(1, 2))
    return found


def _column(x: Tensor, own: int | Tensor) -> Tensor:
    """(R * Hkv, ...): of (R * Hkv, ..., T) what is at the rows' own keys."""
    if isinstance(own, int):
        return x[..., own]
    if own.dim() == 1:
        return x.index_select(-1, own)[..., 0]
    at = own.repeat_interleave(len(x) // len(own), dim=0).view(-1, *(1,) * (x.dim() - 1))
    return x.gather(-1, at.expand(*x.shape[:-1], 1))[..., 0]
