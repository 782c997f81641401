"""The attention of second streams in one forward pass: their own, or the main one, whose last rows are theirs then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grounddecode.engines.rows import finite
from grounddecode.engines.vllm.attention.step import MOST, Rows, parts_of
from grounddecode.engines.vllm.stream.dense import DenseCache, Held, used
from grounddecode.engines.vllm.stream.kernel import Blocks, can_read

if TYPE_CHECKING:
    from grounddecode.engines.vllm.requests import Asked, Current


@dataclass(eq=False)
class Stream:
    """The second stream of one request. `place`: its row of the dense cache; `length`: tokens it has read."""

    place: int
    length: int = 0
    held: int = 0  # tokens whose embeddings have come in
    hides: bool = False  # some of its keys are hidden from every query
    embeds: list[Tensor] = field(default_factory=list)  # those of `length:held`
    positions: list[Tensor] = field(default_factory=list)  # rotary positions, (tokens,) or (3, tokens)
    recorded: dict[int, Tensor] = field(default_factory=dict)  # layer -> (tokens,) image attention of the last row
    last: tuple[Tensor, int] | None = (
        None  # hidden states (n, width) behind the last layer; which is its newest token's
    )

    def has_read(self, last: Tensor, row: int) -> None:
        """All that it holds; `last`, `row`: what came out for the newest token."""
        self.length, self.last = self.held, (last, row)
        if self.embeds:
            self.embeds, self.positions = [], []


class Pass:
    """Second streams that run, each over what it holds and has not read.

    Args:
        asked, members: the requests and their streams, in the order of the pass.
        is_aboard: of the main pass, a row each.
    """

    def __init__(
        self, worker: Current, cache: DenseCache, asked: Sequence[Asked], members: Sequence[Stream],
        is_aboard: bool = False,
    ) -> None:  # fmt: skip
        self.worker, self.cache, self.asked, self.members, self.is_aboard = worker, cache, asked, members, is_aboard
        self.groups = list({id(one.group): one.group for one in asked}.values())
        self._places = np.array([stream.place for stream in members])
        self._begin = np.array([stream.length for stream in members])
        self._counts = np.array([stream.held for stream in members]) - self._begin
        self._hides = any(stream.hides for stream in members)
        self._failed = False

    def go_on(self) -> None:
        """The next step, in which each stream reads the token behind the one of this."""
        self._begin += 1
        for made in ("rows", "places", "at"):
            vars(self).pop(made, None)
        if "blocks" in vars(self):
            self.blocks.go_on()

    @property
    def grounded(self) -> Pass:
        """Where an attention layer looks for what it has to do, in a pass of their own."""
        return self

    @cached_property
    def blocks(self) -> Blocks:
        """For the platform's kernel."""
        return Blocks(self._places, self._begin, self._counts, self.cache.room)

    @cached_property
    def places(self) -> Tensor:
        """(tokens,) rows of the cache."""
        return torch.from_numpy(np.repeat(self._places, self._counts)).to(self.worker.requests.image.device)

    @cached_property
    def at(self) -> Tensor:
        """(tokens,) positions."""
        read = [np.arange(begin, begin + count) for begin, count in zip(self._begin, self._counts, strict=True)]
        return torch.from_numpy(np.concatenate(read)).to(self.worker.requests.image.device)

    @cached_property
    def rows(self) -> list[Rows]:
        """What they read, in pieces, edited where the requests' methods say."""
        requests = self.worker.requests
        device = requests.image.device
        order = np.array([i for i, _ in sorted(enumerate(self.asked), key=lambda x: x[1].group.order)])
        slots, places = np.array([one.slot for one in self.asked])[order], self._places[order]
        begin, offset = self._begin[order], (self._begin - np.cumsum(self._counts) + self._counts)[order]
        place = torch.from_numpy(places).to(device)
        memo = {"place": place, "in_order": bool((places == np.arange(len(order))).all())}
        rows, total = [], int(self._counts.sum())
        for piece in range(0, int(self._counts.max()), MOST):
            count = min(MOST, int(self._counts.max()) - piece)
            queries = (begin + piece)[:, None] + np.arange(count)
            tokens = (queries - offset[:, None]).flatten()
            keys = int(queries.max()) + 1
            rows.append(
                Rows(
                    requests=requests,
                    parts=parts_of(requests, slots, begin + piece),
                    count=count,
                    tokens=torch.from_numpy(tokens).to(device),
                    queries=torch.from_numpy(queries).to(device),
                    real=None,
                    slots=torch.from_numpy(slots).to(device),
                    keys=keys,
                    unseen=None if self.cache.unseen is None else self.cache.unseen[place, :keys],
                    straight=len(tokens) == total and bool((tokens == np.arange(total)).all()),
                    memo=dict(memo),
                )
            )
        return rows

    # -- attention ---------------------------------------------------------------------------------------------------
    def aside(
        self, impl: Any, layer: Any, query: Tensor, key: Tensor | None, value: Tensor | None, output: Tensor
    ) -> int:
        """Attention of the last rows of the main pass; how many rows are before them."""
        first = query.shape[0] - len(self.members)
        mine = output[first:]
        if not self._failed:
            try:
                if key is not None and value is not None:
                    key, value = key[first:], value[first:]
                self.attend(impl, layer, query[first:], key, value, mine)
            except Exception as error:  # an error in a second stream is its request's own
                self._failed = True
                self.worker.requests.break_off(self.groups, error)
        if self._failed:
            mine.zero_()
        return first

    def attend(
        self, impl: Any, layer: Any, query: Tensor, key: Tensor | None, value: Tensor | None, output: Tensor
    ) -> Tensor:
        """Attention of one layer: the cache takes the new tokens in, then all rows are computed."""
        if key is None or value is None:
            raise RuntimeError("this attention backend is given no keys, so there is no second stream")
        if any(group.editing for group in self.groups):
            key, value = finite(key), finite(value)  # a place comes to other requests
        held = self.cache.of_layer(layer.layer_name, key, can_read(layer))
        if held.columns:
            self.blocks.write(layer, key, value, held)
        else:
            held.keys[self.places, :, self.at] = key
            held.values[self.places, :, self.at] = value
        index = self.worker.layer_index(layer)
        if held.columns and self._is_plain(index):
            self.blocks.attend(impl, layer, query, held, output)
            return output
        for rows in self.rows:
            edited = None if held.columns else self._fused(impl, query, held, rows, index)
            if edited is None:
                edited = impl.edited(query, held, rows, index, self.worker)
            rows.into_step(edited, output)
        return output

    def _is_plain(self, layer: int) -> bool:
        """Whether every stream reads all keys as they are."""
        return not self._hides and not any(group.layers[layer].edits and not group.broken for group in self.groups)

    def _fused(self, impl: Any, query: Tensor, held: Held, rows: Rows, layer: int) -> Tensor | None:
        """Output (B * count, H, D) of rows whose edits can be added to the scores; None where one cannot."""
        plans = [part.group.layers[layer] for part in rows.parts if not part.group.broken]
        if impl.logits_soft_cap or any(plan.edits and not plan.gains_only for plan in plans):
            return None
        batch, count = rows.queries.shape
        asked = rows.of_step(query)
        mask = impl.bias_of(rows, layer, self.worker).to(query.dtype)
        keys, values = used(held.keys, rows), used(held.values, rows)
        if count == 1:  # the heads that share a key are queries of one head: it is read once for all of them
            asked = asked.view(batch, impl.num_kv_heads, -1, impl.head_size)
            mask = mask if mask.shape[1] == 1 else mask.view(batch, impl.num_kv_heads, -1, rows.keys)
            output = nn.functional.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=impl.scale)
            return output.reshape(batch, impl.num_heads, -1)
        asked = asked.view(batch, count, impl.num_heads, -1).transpose(1, 2)
        output = nn.functional.scaled_dot_product_attention(
            asked, keys, values, attn_mask=mask, scale=impl.scale, enable_gqa=impl.num_heads != impl.num_kv_heads
        )
        return output.transpose(1, 2).reshape(batch * count, impl.num_heads, -1)

    def note(self, flags: Tensor, index: int, name: str) -> None:
        """Token flags of the pass, whose last tokens are those of the streams."""
        self.cache.note(flags[-int(self._counts.sum()) :], index, name, self.places, self.at)


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
