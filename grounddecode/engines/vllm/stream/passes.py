"""The attention of second streams in one forward pass: their own, or the main one, whose last rows are theirs then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grounddecode.engines.vllm.attention.step import MOST, Rows, groups_of, parts_of
from grounddecode.engines.vllm.stream.dense import DenseCache, used

if TYPE_CHECKING:
    from grounddecode.engines.vllm.requests import Asked, Current


@dataclass(eq=False)
class Stream:
    """The second stream of one request. `place`: its row of the dense cache; `length`: tokens it has read."""

    place: int
    length: int = 0
    held: int = 0  # tokens whose embeddings have come in
    embeds: list[Tensor] = field(default_factory=list)  # those of `length:held`
    positions: list[Tensor] = field(default_factory=list)  # rotary positions, (tokens,) or (3, tokens)
    recorded: dict[int, Tensor] = field(default_factory=dict)  # layer -> (tokens,) image attention of the last row
    last: Tensor | None = None  # (width,) hidden state behind the last layer of its newest token

    def has_read(self, last: Tensor) -> None:
        """All that it holds; `last`: what came out for the newest token."""
        self.length, self.embeds, self.positions, self.last = self.held, [], [], last


@dataclass
class Pass:
    """Second streams that run. `rows`: theirs, numbered from the first of them; `places`, `at`: of each token."""

    worker: Current
    cache: DenseCache
    members: Sequence[Stream]
    rows: list[Rows]
    places: Tensor
    at: Tensor
    is_aboard: bool = False  # of the main pass, a row each
    _failed: bool = False

    @property
    def grounded(self) -> Pass:
        """Where an attention layer looks for what it has to do, in a pass of their own."""
        return self

    def aside(
        self, impl: Any, layer: Any, query: Tensor, key: Tensor | None, value: Tensor | None, output: Tensor
    ) -> int:
        """Attention of the last rows of the main pass; how many rows are before them."""
        first = len(query) - len(self.members)
        if not self._failed:
            try:
                if key is not None and value is not None:
                    key, value = key[first:], value[first:]
                self.attend(impl, layer, query[first:], key, value, output[first:])
            except Exception as error:  # an error in a second stream is its request's own
                self._failed = True
                self.worker.requests.break_off(groups_of(self.rows), error)
        if self._failed:
            output[first:] = 0.0
        return first

    def attend(
        self, impl: Any, layer: Any, query: Tensor, key: Tensor | None, value: Tensor | None, output: Tensor
    ) -> Tensor:
        """Attention of one layer: the cache takes the new tokens in, then all rows are computed."""
        if key is None or value is None:
            raise RuntimeError("this attention backend is given no keys, so there is no second stream")
        keys, values = self.cache.of_layer(str(layer.layer_name), key)
        keys[self.places, :, self.at] = key
        values[self.places, :, self.at] = value
        index = self.worker.layer_index(layer)
        for rows in self.rows:
            edited = self._fused(impl, query, keys, values, rows, index)
            if edited is None:
                edited = impl.edited(query, (keys, values), rows, index, self.worker)
            rows.into_step(edited, output)
        return output

    def _fused(self, impl: Any, query: Tensor, keys: Tensor, values: Tensor, rows: Rows, layer: int) -> Tensor | None:
        """Output (B * count, H, D) of rows whose edits can be added to the scores; None where one cannot."""
        plans = [part.group.layers[layer] for part in rows.parts if not part.group.broken]
        if impl.logits_soft_cap or any(plan.edits and not plan.gains_only for plan in plans):
            return None
        batch, count = rows.queries.shape
        asked = rows.of_step(query)
        mask = impl.bias_of(rows, layer, self.worker).to(query.dtype)
        if count == 1:  # the heads that share a key are queries of one head: it is read once for all of them
            asked = asked.view(batch, impl.num_kv_heads, -1, impl.head_size)
            mask = mask if mask.shape[1] == 1 else mask.view(batch, impl.num_kv_heads, -1, rows.keys)
            output = nn.functional.scaled_dot_product_attention(
                asked, used(keys, rows), used(values, rows), attn_mask=mask, scale=impl.scale
            )
            return output.reshape(batch, impl.num_heads, -1)
        asked = asked.view(batch, count, impl.num_heads, -1).transpose(1, 2)
        output = nn.functional.scaled_dot_product_attention(
            asked, used(keys, rows), used(values, rows), attn_mask=mask, scale=impl.scale,
            enable_gqa=impl.num_heads != impl.num_kv_heads,
        )  # fmt: skip
        return output.transpose(1, 2).reshape(batch * count, impl.num_heads, -1)

    def note(self, flags: Tensor, index: int, name: str) -> None:
        """Token flags of the pass, whose last tokens are those of the streams."""
        self.cache.note(flags[-len(self.places) :], index, name, self.places, self.at)


def pass_of(
    worker: Current, cache: DenseCache, asked: Sequence[Asked], streams: Sequence[Stream], is_aboard: bool = False
) -> Pass:
    """The pass over what these streams hold and have not read; rows are edited where the requests' methods say."""
    device = worker.requests.image.device
    order = np.array([i for i, _ in sorted(enumerate(asked), key=lambda x: x[1].group.order)])
    begin = np.array([stream.length for stream in streams])
    counts = np.array([stream.held for stream in streams]) - begin
    offset = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places, slots = np.array([s.place for s in streams]), np.array([a.slot for a in asked])
    at = np.concatenate([np.arange(stream.length, stream.held) for stream in streams])
    in_order = bool((places[order] == np.arange(len(order))).all())
    rows = []
    for piece in range(0, int(counts.max()), MOST):
        count = min(MOST, int(counts.max()) - piece)
        queries = (begin[order] + piece)[:, None] + np.arange(count)
        tokens = (queries - (begin - offset)[order][:, None]).flatten()
        straight = len(tokens) == len(at) and bool((tokens == np.arange(len(at))).all())
        keys = int(queries.max()) + 1
        place = torch.from_numpy(places[order]).to(device)
        rows.append(
            Rows(
                requests=worker.requests,
                parts=parts_of(worker.requests, slots[order], begin[order] + piece),
                count=count,
                tokens=torch.from_numpy(tokens).to(device),
                queries=torch.from_numpy(queries).to(device),
                real=None,
                slots=torch.from_numpy(slots[order]).to(device),
                keys=keys,
                unseen=None if cache.unseen is None else cache.unseen[place, :keys],
                straight=straight,
                memo={"place": place, "in_order": in_order},
            )
        )
    per_token = torch.from_numpy(np.repeat(places, counts)).to(device)
    return Pass(worker, cache, streams, rows, per_token, torch.from_numpy(at).to(device), is_aboard)


def takes_more_rows(config: Any, model: nn.Module) -> bool:
    """Whether the main pass takes rows of second streams: nothing in it may count on the number of its tokens.

    Graphs are recorded for some numbers, adapters and ranks of data are told them, drafts and pipelines hand on what is
    as long, and some models keep inputs of later layers by token.
    """
    parallel = config.parallel_config
    return (
        config.compilation_config.cudagraph_mode.name == "NONE"
        and parallel.data_parallel_size == parallel.pipeline_parallel_size == 1
        and config.lora_config is config.speculative_config is None
        and not any("deepstack" in name for name in vars(model))
    )
