"""Gradients written out for blocks of Llama's form, beside those that autograd gives of the same blocks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grounddecode.engines.saliency.way_back import down
from grounddecode.engines.vllm.attention.backend import EditedRows
from grounddecode.engines.vllm.blocks import Blocks

WIDTH, INNER, HEADS, SHARED, SIZE, LOWEST, EPSILON = 24, 20, 4, 2, 8, 2, 1e-5
ROWS, KEYS, COUNT, LAYERS = 2, 11, 3, (2, 3, 4)
OWN = torch.tensor([10, 6])  # the second row has keys behind it


class Linear(nn.Linear):
    skip_bias_add = False


class Norm(nn.Module):
    variance_epsilon = EPSILON

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(WIDTH) + 0.5)


class Rotary(nn.Module):
    """Turns the first `turned` numbers of each head, by halves."""

    def __init__(self, turned: int) -> None:
        super().__init__()
        angles = torch.arange(KEYS)[:, None] * 0.7 ** torch.arange(turned // 2)
        self.register_buffer("cos_sin_cache", 1.1 * torch.cat([angles.cos(), angles.sin()], dim=-1))  # as YaRN scales
        self._forward_method = self.forward_native

    def forward_native(self, positions: Tensor, query: Tensor, key: Tensor | None) -> tuple[Tensor, Tensor | None]:
        cos, sin = (x[:, None] for x in self.cos_sin_cache[positions].chunk(2, dim=-1))

        def turned(x: Tensor) -> Tensor:
            half = cos.shape[-1]
            first, second, rest = x.view(len(x), -1, SIZE).tensor_split([half, 2 * half], dim=-1)
            return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).flatten(1)

        return turned(query), None if key is None else turned(key)


class Attention(EditedRows):
    num_heads, num_kv_heads, head_size, scale = HEADS, SHARED, SIZE, SIZE**-0.5

    def weights_of(self, scores: Tensor, rows: Any, layer: int, worker: Any) -> Tensor:
        return masked(scores).softmax(dim=-1)


def masked(scores: Tensor) -> Tensor:
    return scores.masked_fill((torch.arange(KEYS) > OWN[:, None])[:, None, None], -math.inf)


def block(rotary: Rotary, bias: bool) -> nn.Module:
    made = nn.Module()
    made.input_layernorm, made.post_attention_layernorm = Norm(), Norm()
    made.self_attn, made.mlp = nn.Module(), nn.Module()
    made.self_attn.qkv_proj = Linear(WIDTH, (HEADS + 2 * SHARED) * SIZE, bias=bias)
    made.self_attn.o_proj = Linear(HEADS * SIZE, WIDTH, bias=bias)
    made.self_attn.rotary_emb = rotary
    made.mlp.gate_up_proj, made.mlp.down_proj = Linear(WIDTH, 2 * INNER, bias=bias), Linear(INNER, WIDTH, bias=bias)
    for part in made.parameters():
        if part.dim() == 2:
            nn.init.normal_(part, std=0.4)  # a smaller model attends evenly
    return made


def normed(module: Any, x: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(x, (WIDTH,), module.weight, EPSILON)


def by_autograd(
    blocks: list[Any], norm: Any, hidden: Tensor, caches: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """The last hidden states, and the attention weights (R, H, T) of each block, all in one graph.

    `caches`: keys and values (R, Hkv, T, D) of each block; the rows' own are put there.
    """
    attended, row = [], torch.arange(ROWS)
    for one, (keys, values) in zip(blocks, caches, strict=True):
        qkv = one.self_attn.qkv_proj(normed(one.input_layernorm, hidden))
        query, key, value = qkv.split([HEADS * SIZE, SHARED * SIZE, SHARED * SIZE], dim=-1)
        query, key = one.self_attn.rotary_emb.forward_native(OWN, query, key)
        there = torch.nn.functional.one_hot(OWN, KEYS).bool()[:, None, :, None]
        mine = [torch.where(there, x.view(ROWS, SHARED, 1, SIZE), c) for x, c in ((key, keys), (value, values))]
        keys[row, :, OWN], values[row, :, OWN] = (m.detach()[row, :, OWN] for m in mine)
        every = [m.repeat_interleave(HEADS // SHARED, dim=1) for m in mine]
        scores = query.view(ROWS, HEADS, 1, SIZE) @ every[0].mT / math.sqrt(SIZE)
        attended.append(masked(scores).softmax(dim=-1).requires_grad_())
        hidden = hidden + one.self_attn.o_proj((attended[-1] @ every[1]).view(ROWS, -1))
        gate, up = one.mlp.gate_up_proj(normed(one.post_attention_layernorm, hidden)).chunk(2, dim=-1)
        hidden = hidden + one.mlp.down_proj(torch.nn.functional.silu(gate) * up)
    return normed(norm, hidden), attended


@pytest.mark.parametrize("wanted", [LAYERS, (3,), (2, 4)])
@pytest.mark.parametrize(("turned", "bias"), [(SIZE, False), (4, True)])
def test_it_is_what_autograd_gives(wanted: tuple[int, ...], turned: int, bias: bool) -> None:
    torch.manual_seed(0)
    rotary = Rotary(turned)
    blocks, norm = [block(rotary, bias) for _ in LAYERS], Norm()
    hidden, starts = torch.randn(ROWS, WIDTH), torch.randn(ROWS, COUNT, WIDTH)
    caches = [(torch.randn(ROWS, SHARED, KEYS, SIZE), torch.randn(ROWS, SHARED, KEYS, SIZE)) for _ in LAYERS]
    last, attended = by_autograd(blocks, norm, hidden, caches)
    expected = []
    for layer in wanted:
        weights = attended[layer - LOWEST]
        grads = [torch.autograd.grad(last, weights, starts[:, k], retain_graph=True)[0] for k in range(COUNT)]
        expected.append(torch.stack([(weights * g)[:, :, 0].abs().sum(dim=1) for g in grads], dim=1))

    layers = [SimpleNamespace(impl=Attention(), kv_cache=cache) for cache in caches]
    reader: Any = SimpleNamespace(
        keys=lambda cache, rows: cache[0].flatten(0, 1).mT, values=lambda cache, rows: cache[1].flatten(0, 1)
    )
    worker: Any = None
    rows: Any = SimpleNamespace(queries=OWN[:, None], keys=KEYS)
    ours = Blocks(worker, reader, blocks, layers, norm, LOWEST, lambda part: part.weight.detach())
    with torch.inference_mode():
        mine, way = ours.up(hidden, OWN, rows)
        found = torch.stack(down(way, starts, wanted))
    torch.testing.assert_close(mine, last.detach())
    torch.testing.assert_close(found, torch.stack(expected).detach(), rtol=1e-4, atol=1e-6)
