"""Decoder blocks as Llama has them, run again for single rows, and what the way back through them needs.

All gradients of a row share one way up, and no graph is made. Blocks of any other form are left to autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from grounddecode.engines.saliency.way_back import Norm, Passed, Products, Turn, Way

if TYPE_CHECKING:
    from grounddecode.engines.vllm.attention.cache import Reader
    from grounddecode.engines.vllm.attention.step import Rows
    from grounddecode.engines.vllm.requests import Current

_FORM = {
    "": {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
    "self_attn": {"qkv_proj", "rotary_emb", "attn", "o_proj"},
    "mlp": {"gate_up_proj", "act_fn", "down_proj"},
}
_FAR = "do_llama_4_scaling"  # of attention: queries are multiplied, far into a sequence, as no first step tells
_PRODUCTS = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")


_Turn = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Any]]


def unit(total: Tensor, epsilon: float) -> Tensor:
    """Rows divided by their root mean square; float32."""
    wide = total.float()
    return wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + epsilon)


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
        normed = unit(total, module.variance_epsilon).to(x.dtype) * module.weight.detach()
        return normed if residual is None else (normed, total)

    return forward


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
        self._norms = [(_norm(block.input_layernorm), _norm(block.post_attention_layernorm)) for block in blocks]
        self._behind = _norm(norm)
        rotaries = {block.self_attn.rotary_emb for block in blocks}
        self._turns: dict[Any, _Turn] = {rotary: _plain(rotary) for rotary in rotaries}

    def up(self, hidden: Tensor, positions: Tensor, rows: Rows) -> tuple[Tensor, Way]:
        """The last hidden states (R, width) of rows (R, width), and the way back."""
        passed: list[Passed] = []
        turns: dict[Any, Turn] = {}
        for at in range(len(self._blocks)):
            hidden, here = self._block(at, hidden, positions, rows, turns)
            passed.append(here)
        return _normed(self._behind, hidden), Way(passed, self._behind, hidden)

    def _block(
        self, at: int, total: Tensor, positions: Tensor, rows: Rows, turns: dict[Any, Turn]
    ) -> tuple[Tensor, Passed]:
        impl, (qkv_bias, out_bias, up_bias, down_bias) = self._attentions[at].impl, self._biases[at]
        qkv_weight, out_weight, up_weight, down_weight = (self._weight(part) for part in self._parts[at])
        first, second = self._norms[at]
        qkv = linear(_normed(first, total), qkv_weight, qkv_bias)
        asked, turn = self._asked(at, qkv, positions, rows, turns)
        cache = self._attentions[at].kv_cache  # it holds the rows' own keys and values by now
        keys, values = self._reader.keys(cache, rows), self._reader.values(cache, rows)
        scores = torch.bmm(asked, keys).view(len(qkv), -1, 1, rows.keys)
        weights = impl.weights_of(scores, rows, self._lowest + at, self._worker).reshape(len(keys), -1, rows.keys)
        seen = torch.bmm(weights, values).view(len(qkv), -1).to(qkv.dtype)
        middle = total + linear(seen, out_weight, out_bias)
        gate, factor = linear(_normed(second, middle), up_weight, up_bias).chunk(2, dim=-1)
        end = middle + linear(silu(gate) * factor, down_weight, down_bias)
        return end, Passed(
            self._lowest + at, Products([qkv_weight], out_weight, [up_weight], down_weight), (first, second),
            (total, middle), gate, factor, keys.mT, values, asked, weights, rows.queries, turn,
        )  # fmt: skip

    def _asked(
        self, at: int, qkv: Tensor, positions: Tensor, rows: Rows, turns: dict[Any, Turn]
    ) -> tuple[Tensor, Turn]:
        """(R * Hkv, H / Hkv, D) scaled queries, turned by their positions, and what turns back, kept in `turns`."""
        impl, rotary = self._attentions[at].impl, self._blocks[at].self_attn.rotary_emb
        kernel, size = self._turns[rotary], impl.head_size
        query, _ = kernel(positions, qkv[:, : impl.num_heads * size].contiguous(), None)
        known = (rotary, impl.scale)
        if known not in turns:
            every = torch.eye(size, dtype=qkv.dtype, device=qkv.device).repeat(len(qkv), 1)
            rotation, _ = kernel(positions.repeat_interleave(size), every, None)
            turns[known] = Turn.of(rotation.view(len(qkv), size, size).float(), impl.scale)
        return impl.asked_of(query.reshape(len(query), impl.num_heads, -1), rows), turns[known]


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.variance_epsilon)


def _normed(norm: Norm, total: Tensor) -> Tensor:
    return unit(total, norm.epsilon).to(total.dtype) * norm.weight


def _bias(part: Any) -> Tensor | None:
    return None if part.bias is None or part.skip_bias_add else part.bias.detach()


def _plain(rotary: Any) -> _Turn:
    """The kernel of a rotary embedding."""
    name = getattr(rotary._forward_method, "__name__", "")
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
            and not getattr(block.self_attn, _FAR, False)
            and issubclass(turn, RotaryEmbedding)
            and all(getattr(turn, f) is getattr(RotaryEmbedding, f) for f in ("forward_native", "forward_cpu"))
            and all(isinstance(block.get_submodule(part), LinearBase) for part in _PRODUCTS)
        )

    return is_norm(norm) and all(is_one(block) for block in blocks)
