"""Decoder blocks as Llama has them, run again for single rows, with their gradients written out.

The same as autograd gives of the blocks in torch, in a third of the operations: small models wait for little else. All
gradients of a row share one way up, and no graph is made. Blocks of any other form are left to autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.cache import Reader
    from grounddecode.engines.vllm.attention.step import Rows
    from grounddecode.engines.vllm.requests import Current

_FORM = {
    "": {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
    "self_attn": {"qkv_proj", "rotary_emb", "attn", "o_proj"},
    "mlp": {"gate_up_proj", "act_fn", "down_proj"},
}
_PRODUCTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


_Kept = tuple[Tensor, Tensor, Tensor, Tensor]
_Turn = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Any]]


def towards(values: Tensor, delta: Tensor) -> Tensor:
    """(R * Hkv, K, H / Hkv, T): gradients of attention weights, from those of the attention's output.

    Args:
        values: (R * Hkv, T, D).  delta: (R, K, H * D).
    """
    found = torch.bmm(_by_group(delta, values), values.mT)
    return found.view(len(values), delta.shape[1], -1, values.shape[1])


def salient(found: Tensor, rows: int) -> Tensor:
    """(R, K, T): mean size over heads of weights times their gradients (R * Hkv, K, H / Hkv, T)."""
    return found.abs().view(rows, -1, *found.shape[1:]).mean(dim=(1, 3))


def _by_group(delta: Tensor, values: Tensor) -> Tensor:
    """(R * Hkv, K * H / Hkv, D), float32, of (R, K, H * D): the heads that share keys beside each other."""
    rows, count, _ = delta.shape
    grouped = delta.view(rows, count, len(values) // rows, -1, values.shape[-1]).transpose(1, 2)
    return grouped.reshape(len(values), -1, values.shape[-1]).float()


def unit(total: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Rows divided by their root mean square, and what they were multiplied with for that (..., 1); float32."""
    wide = total.float()
    scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + epsilon)
    return wide * scale, scale


class PlainLinear:
    """In place of a layer's `quant_method`: the plain product. `weight`: gives (out, in) of the layer."""

    def __init__(self, weight: Callable[[Any], Tensor]) -> None:
        self._weight = weight

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, self._weight(layer), None if bias is None else bias.detach())


def plain_norm(module: Any) -> Callable[..., Any]:
    """An RMSNorm that changes nothing in place."""

    def forward(x: Tensor, residual: Tensor | None = None) -> Any:
        total = x if residual is None else x + residual
        normed = unit(total, module.variance_epsilon)[0].to(x.dtype) * module.weight.detach()
        return normed if residual is None else (normed, total)

    return forward


@dataclass
class _Norm:
    """An RMSNorm of (R, 1, width), and what its way back needs."""

    weight: Tensor
    unit: Tensor
    scale: Tensor

    @classmethod
    def of(cls, module: Any, total: Tensor) -> tuple[Tensor, _Norm]:
        found, weight = unit(total, module.variance_epsilon), module.weight.detach()
        return found[0].to(total.dtype) * weight, cls(weight, *found)

    def back(self, grad: Tensor) -> Tensor:
        grad = grad * self.weight
        along = (grad * self.unit).mean(dim=-1, keepdim=True)
        return torch.addcmul(grad, self.unit, along, value=-1).mul_(self.scale)


@dataclass
class _Passed:
    """What the way back through one block needs."""

    layer: int
    products: list[Tensor]  # the weights (out, in) of its four linear layers
    norms: list[_Norm]
    keys: Tensor  # (R * Hkv, D, T)
    values: Tensor  # (R * Hkv, T, D)
    asked: Tensor  # (R * Hkv, H / Hkv, D), scaled queries
    weights: Tensor  # (R * Hkv, 1, H / Hkv, T)
    slopes: Tensor  # (R, 1, 2 * inner)


@dataclass
class Way:
    """What the way back needs: of the rows, of each block, and of the norm behind the last."""

    rows: Rows
    positions: Tensor  # (R,)
    passed: list[_Passed]
    norm: _Norm


class Blocks:
    """The blocks from one layer to the last, and the norm behind them.

    Args:
        blocks: of the form that `fits`.  attentions: their attention layers.  norm: the one behind the last block.
        lowest: layer of the first.  weight: gives (out, in) of a linear layer.
    """

    def __init__(
        self, worker: Current, reader: Reader, blocks: Sequence[Any], attentions: Sequence[Any], norm: Any, lowest: int,
        weight: Callable[[Any], Tensor],
    ) -> None:  # fmt: skip
        self._worker, self._reader, self._lowest, self._weight = worker, reader, lowest, weight
        self._blocks, self._attentions, self._norm = blocks, attentions, norm
        self._parts = [[block.get_submodule(name) for name in _PRODUCTS] for block in blocks]
        self._biases = [[_bias(part) for part in parts] for parts in self._parts]
        self._turns: dict[Any, tuple[_Turn, _Turn]] = {}
        for block in blocks:
            rotary = block.self_attn.rotary_emb
            self._turns[rotary] = self._turns.get(rotary) or (_plain(rotary), _plain(rotary, back=True))

    def up(self, hidden: Tensor, positions: Tensor, rows: Rows) -> tuple[Tensor, Way]:
        """The last hidden states (R, width) of rows (R, width), and the way back."""
        total, passed = hidden[:, None], []
        for at in range(len(self._blocks)):
            total, here = self._block(at, total, positions, rows)
            passed.append(here)
        last, norm = _Norm.of(self._norm, total)
        return last[:, 0], Way(rows, positions, passed, norm)

    def _block(self, at: int, total: Tensor, positions: Tensor, rows: Rows) -> tuple[Tensor, _Passed]:
        block, (qkv_bias, out_bias, up_bias, down_bias) = self._blocks[at], self._biases[at]
        products = [self._weight(part) for part in self._parts[at]]
        given, first = _Norm.of(block.input_layernorm, total)
        qkv = linear(given[:, 0], products[0], qkv_bias)
        seen, kept = self._attended(at, qkv, positions, rows)
        total = total + linear(seen, products[1], out_bias)[:, None]
        given, second = _Norm.of(block.post_attention_layernorm, total)
        gate, up = linear(given, products[2], up_bias).chunk(2, dim=-1)
        share = torch.sigmoid(gate)
        passing = gate * share
        slopes = torch.cat([torch.addcmul(share, passing, 1.0 - share) * up, passing], dim=-1)
        total = total + linear(passing * up, products[3], down_bias)
        return total, _Passed(self._lowest + at, products, [first, second], *kept, slopes)

    def _attended(self, at: int, qkv: Tensor, positions: Tensor, rows: Rows) -> tuple[Tensor, _Kept]:
        """(R, H * D), and keys, values, queries and weights. The cache holds the rows' own keys and values by now."""
        impl, cache = self._attentions[at].impl, self._attentions[at].kv_cache
        turn, _ = self._turns[self._blocks[at].self_attn.rotary_emb]
        query, _ = turn(positions, self._split(at, qkv)[0], None)
        keys, values = self._reader.keys(cache, rows), self._reader.values(cache, rows)
        asked = impl.asked_of(query.reshape(len(query), impl.num_heads, -1), rows)
        scores = torch.bmm(asked, keys).view(len(query), -1, 1, rows.keys)
        weights = impl.weights_of(scores, rows, self._lowest + at, self._worker).reshape(len(keys), -1, rows.keys)
        out = torch.bmm(weights, values).view(len(query), -1).to(qkv.dtype)
        return out, (keys, values, asked, weights[:, None])

    def _split(self, at: int, qkv: Tensor) -> tuple[Tensor, ...]:
        impl = self._attentions[at].impl
        shared = impl.num_kv_heads * impl.head_size
        return torch.split(qkv, [impl.num_heads * impl.head_size, shared, shared], dim=-1)

    def down(self, way: Way, start: Tensor, wanted: Sequence[int]) -> Tensor:
        """(layers, R, K, T): |A * dA| averaged over heads, A the attention weights in the wanted layers.

        Args:
            start: (R, K, width), K gradients of the last hidden states of each row.  wanted: layers, ascending.
        """
        positions = way.positions.repeat_interleave(start.shape[1])
        grad, found = way.norm.back(start.float()), []
        for here in reversed(way.passed):
            _, out, up, down = here.products
            inner = _through(grad, down)
            inner = torch.cat([inner, inner], dim=-1) * here.slopes
            grad = grad + here.norms[1].back(_through(inner, up))
            delta = _through(grad, out)
            moved = here.weights * towards(here.values, delta)
            if here.layer in wanted:
                found.append(salient(moved, len(start)))
            if here.layer == wanted[0]:
                break
            grad = grad + self._through_attention(here, moved, delta, positions, way.rows)
        return torch.stack(found[::-1])

    def _through_attention(self, here: _Passed, moved: Tensor, delta: Tensor, positions: Tensor, rows: Rows) -> Tensor:
        """(R, K, width): gradients of a block's input by way of its attention, from those of the attention's output."""
        at, (many, count) = here.layer - self._lowest, delta.shape[:2]
        impl, width = self._attentions[at].impl, here.asked.shape[-1]
        groups, shared = len(here.keys), here.weights.shape[2]
        slope = torch.addcmul(moved, here.weights, moved.sum(dim=-1, keepdim=True), value=-1)  # of the scores
        query = torch.bmm(slope.view(groups, -1, rows.keys), here.keys.mT).mul_(impl.scale)
        own = rows.queries.repeat_interleave(groups // many, dim=0)[:, None, None]
        key = torch.bmm(slope.gather(3, own.expand(-1, count, shared, -1))[..., 0], here.asked)
        mine = here.weights.gather(3, own.expand(-1, 1, shared, -1))
        value = (_by_group(delta, here.values).view(groups, count, shared, width) * mine).sum(dim=2)
        parts = [x.view(many, -1, count, x.numel() // (groups * count)).transpose(1, 2) for x in (query, key, value)]
        grad = torch.cat([x.reshape(many * count, -1) for x in parts], dim=-1).to(here.products[0].dtype)
        query, key, value = self._split(at, grad)
        _, turn_back = self._turns[self._blocks[at].self_attn.rotary_emb]
        grad = torch.cat([*turn_back(positions, query, key), value], dim=-1).view(many, count, -1)
        return here.norms[0].back(_through(grad, here.products[0]))


def _through(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient of a linear layer's input, float32."""
    return (grad.to(weight.dtype) @ weight).float()


def _bias(part: Any) -> Tensor | None:
    return None if part.bias is None or part.skip_bias_add else part.bias.detach()


def _plain(rotary: Any, back: bool = False) -> _Turn:
    """The kernel of a rotary embedding; `back`: of its transpose, which turns the other way."""
    name = getattr(rotary._forward_method, "__name__", "")
    if back:
        cosines, sines = rotary.cos_sin_cache.chunk(2, dim=-1)
        buffers = {**rotary._buffers, "cos_sin_cache": torch.cat([cosines, -sines], dim=-1)}
        rotary = copy.copy(rotary)
        vars(rotary)["_buffers"] = buffers
    kernel: _Turn = getattr(rotary, name if name == "forward_cpu" else "forward_native")
    return kernel


def fits(blocks: Sequence[nn.Module], norm: nn.Module) -> bool:
    """Whether these are blocks of the one form that is written out here, as far as their parts tell."""
    from vllm.model_executor.layers.activation import SiluAndMul
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    def is_norm(module: Any) -> bool:
        return type(module) is RMSNorm and module.has_weight and module.variance_size_override is None

    def is_one(block: Any) -> bool:
        for name, parts in _FORM.items():
            if {child for child, _ in block.get_submodule(name).named_children()} != parts:
                return False
        turn = type(block.self_attn.rotary_emb)
        return (
            is_norm(block.input_layernorm)
            and is_norm(block.post_attention_layernorm)
            and type(block.mlp.act_fn) is SiluAndMul
            and issubclass(turn, RotaryEmbedding)
            and all(getattr(turn, f) is getattr(RotaryEmbedding, f) for f in ("forward_native", "forward_cpu"))
            and all(isinstance(block.get_submodule(part), LinearBase) for part in _PRODUCTS)
        )

    return is_norm(norm) and all(is_one(block) for block in blocks)
