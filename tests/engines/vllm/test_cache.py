"""Keys and values out of the paged cache: what the backend's own operator has written into it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grounddecode.engines.vllm.attention.cache import Columns, Paged
from grounddecode.engines.vllm.attention.step import plan_rows
from grounddecode.engines.vllm.requests import Layout, Requests
from grounddecode.methods.attention.locore import LocoRE

HEADS, WIDTH, BLOCK = 2, 32, 32


def rows_of(lengths, table):
    requests = Requests(8, 256, 2, 9, torch.device("cpu"))
    asked = [requests.add(str(i), (LocoRE(),), [9, 1]) for i in range(len(lengths))]
    layout = Layout(np.array([a.slot for a in asked]), np.arange(len(lengths) + 1), np.array(lengths))
    return plan_rows(requests, layout, table, BLOCK)[0]


def scattered(lengths):
    """Keys, values, cache slots and block tables of requests whose blocks lie in no order."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randperm(24, generator=generator).to(torch.int32).view(-1, 4)[: len(lengths)]
    tokens = [(i, t) for i, length in enumerate(lengths) for t in range(length)]
    slots = torch.tensor([int(table[i, t // BLOCK]) * BLOCK + t % BLOCK for i, t in tokens])
    key, value = (torch.randn(len(tokens), HEADS, WIDTH, generator=generator) for _ in range(2))
    return key, value, slots, table, tokens


def check(reader, cache, rows, key, value, tokens):
    keys, values = reader.keys(cache, rows), reader.values(cache, rows)
    batch = len(rows.queries)
    keys, values = keys.view(batch, HEADS, WIDTH, -1), values.view(batch, HEADS, -1, WIDTH)
    for n, (i, t) in enumerate(tokens):
        assert torch.equal(keys[i, :, :, t], key[n].float())
        assert torch.equal(values[i, :, t], value[n].float())
    for i in range(batch):  # one request after the other
        assert torch.equal(reader.keys(cache, rows, slice(i, i + 1)), keys[i])
        assert torch.equal(reader.values(cache, rows, slice(i, i + 1)), values[i])


def check_products(reader, cache, rows, key, value, tokens):
    """Scores and outputs of 3 heads a key, one query and several: what each token's own key and value give by hand."""
    generator, batch = torch.Generator().manual_seed(1), len(rows.queries)
    tolerance = {"atol": 1e-5, "rtol": 1e-5}
    for count in (3, 9):
        asked = torch.randn(batch * HEADS, count, WIDTH, generator=generator)
        weights = torch.zeros(batch, HEADS, count, rows.keys)
        expected = torch.zeros(batch, HEADS, count, WIDTH, dtype=torch.float64)
        scores = reader.scores(asked, cache, rows).view(batch, HEADS, count, rows.keys)
        by_head = asked.view(batch, HEADS, count, WIDTH).double()
        for n, (i, t) in enumerate(tokens):
            by_hand = (by_head[i] * key[n, :, None].double()).sum(dim=-1)
            torch.testing.assert_close(scores[i, :, :, t].double(), by_hand, **tolerance)
            weights[i, :, :, t] = torch.rand(HEADS, count, generator=generator)
            expected[i] += weights[i, :, :, t, None].double() * value[n, :, None].double()
        found = reader.outputs(weights.view(batch * HEADS, count, -1), cache, rows, WIDTH)
        torch.testing.assert_close(found.view(expected.shape).double(), expected, **tolerance)


@pytest.mark.parametrize("lengths", [[40, 7, 97], [2], [32, 64]])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 1, 3)])
def test_paged(lengths, order):
    """FLASH_ATTN and its like: `cache.transpose(1, 2).split(width, -1)` is keys and values, whatever the strides."""
    key, value, slots, table, tokens = scattered(lengths)
    memory = torch.full([(24, HEADS, BLOCK, 2 * WIDTH)[i] for i in order], 7.0)
    cache = memory.permute(*np.argsort(order).tolist())
    for n, slot in enumerate(slots.tolist()):
        cache[slot // BLOCK, :, slot % BLOCK] = torch.cat([key[n], value[n]], dim=-1)
    check(Paged(), cache, rows_of(lengths, table), key, value, tokens)
    check_products(Paged(), cache, rows_of(lengths, table), key, value, tokens)


@pytest.mark.vllm
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[40, 7, 97], [2], [32, 64]])
def test_cpu_attention_writes_what_is_read(lengths, dtype):
    from vllm import _custom_ops as ops
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    key, value, slots, table, tokens = scattered(lengths)
    key, value = key.to(dtype), value.to(dtype)
    isa = _get_attn_isa(dtype, BLOCK, WIDTH, "auto")
    if isa == "amx":
        pytest.skip("AMX packs keys in a way of its own")
    cache = torch.full((24, HEADS, BLOCK, 2 * WIDTH), 7.0, dtype=dtype)
    halves = cache.view(24, HEADS, 2 * BLOCK, WIDTH).chunk(2, dim=2)
    ops.cpu_attn_reshape_and_cache(key, value, *halves, slots, isa, k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto")
    check(Columns(), cache, rows_of(lengths, table), key, value, tokens)
    check_products(Columns(), cache, rows_of(lengths, table), key, value, tokens)
