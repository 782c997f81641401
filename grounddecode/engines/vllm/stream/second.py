"""The second stream on a server: its own dense cache in the worker, and its own forward pass behind the main one.

The embeddings of a request's tokens are kept. Once its prompt is complete the method says what the second stream sees
of the image; every later step feeds it what the main stream has read meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grounddecode.engines.overwrite import overwritten
from grounddecode.engines.vllm.attention.step import MOST, Rows, parts_of
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


@dataclass
class Pass:
    """The metadata that attention layers are given while a second stream runs. `places`, `at`: of each token."""

    streams: Streams
    rows: list[Rows]
    places: Tensor
    at: Tensor

    @property
    def grounded(self) -> Pass:
        """Where an attention layer looks for what it has to do."""
        return self


class Streams:
    """All second streams of a worker; their cache grows with them and is let go when there are none.

    Args:
        most: how many there may be at a time.
    """

    def __init__(self, worker: Current, most: int) -> None:
        self.worker = worker
        self.by_key: dict[str, Stream] = {}
        self.running: Pass | None = None
        self._model: Any = None
        self.cache = DenseCache(most)

    def attach(self, model: nn.Module) -> None:
        self._model = model
        model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)

    @property
    def _device(self) -> torch.device:
        return self.worker.requests.image.device

    # -- what the main stream reads ----------------------------------------------------------------------------------
    def _keep_inputs(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Keep the embeddings of this step's tokens, each once: a preempted request reads some again."""
        layout = self.worker.layout
        if self.running is not None or layout is None:
            return
        embeds = kwargs.get("inputs_embeds")
        self.worker.positions = positions = kwargs.get("positions")
        if embeds is None or positions is None:
            return
        fresh, tokens = [], []
        for asked, start, past, length in layout.of_streams(self.worker.requests):
            stream = self._stream(asked)
            begin = max(stream.held, past)
            if past <= stream.held and begin < length:
                fresh.append(stream)
                tokens.append(np.arange(start + begin - past, start + length - past))
                stream.held = length
        if not fresh:
            return
        index, counts = torch.from_numpy(np.concatenate(tokens)).to(embeds.device), [len(at) for at in tokens]
        own = torch.split(embeds.index_select(0, index), counts)
        where = torch.split(positions.index_select(-1, index), counts, dim=-1)
        for stream, new, at in zip(fresh, own, where, strict=True):
            stream.embeds.append(new)
            stream.positions.append(at)

    def record(self, asked: Asked, layer: int, row: Tensor) -> None:
        """Image attention (T,) of the last prompt row in one layer, averaged over heads."""
        self._stream(asked).recorded[layer] = row

    def _stream(self, asked: Asked) -> Stream:
        stream = self.by_key.get(asked.key)
        if stream is None:
            stream = self.by_key[asked.key] = Stream(self.cache.take(self._device))
        return stream

    def drop(self, asked: Asked) -> None:
        """Its request has ended."""
        stream = self.by_key.pop(asked.key, None)
        if stream is None:
            return
        self.cache.give_back(stream.place)
        if not self.by_key:
            self.cache.clear()

    # -- the second forward ------------------------------------------------------------------------------------------
    def logits(self, asked: Sequence[Asked]) -> Tensor:
        """(R, vocabulary) next-token logits of the second streams of these requests, which have read all they can."""
        streams = [self._stream(one) for one in asked]
        found: list[Tensor | None] = [None] * len(streams)
        for i, (one, stream) in enumerate(zip(asked, streams, strict=True)):
            if stream.held - stream.length > 1:
                found[i] = self._run([one], [stream])
        rest = [i for i, known in enumerate(found) if known is None]
        if rest:
            together = self._run([asked[i] for i in rest], [streams[i] for i in rest])
            for i, row in zip(rest, together, strict=True):
                found[i] = row[None]
        return torch.cat([row for row in found if row is not None])

    def begin(self, asked: Asked) -> None:
        """If its prompt has just become complete: overwrite, or hide, what the stream does not see of the image."""
        stream = self._stream(asked)
        if stream.length:
            return
        method, requests, n = asked.group.stream, self.worker.requests, asked.prompt_length
        if method is None or stream.held < n or not stream.recorded:
            raise RuntimeError("the prompt of a second stream did not come in whole")
        layers = torch.stack([stream.recorded[layer][:n] for layer in sorted(stream.recorded)])
        view = self.worker.last_view([asked], np.array([n]))
        edit = method.second_stream(view.with_(image_attention=layers[:, None]))
        replaced = requests.image[asked.slot, :n] & ~edit.keep[0, :n]
        embeds = torch.cat(stream.embeds)
        here = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
        here[:n] = replaced
        stream.embeds = [overwritten(embeds[None], here[None], edit.scheme)[0]]
        stream.recorded.clear()
        self.cache.make_room(stream.held, self._device)
        if edit.scheme == "mask" and self.cache.unseen is not None:
            self.cache.unseen[stream.place, :n] = replaced

    def _run(self, asked: Sequence[Asked], streams: Sequence[Stream]) -> Tensor:
        """One forward pass over what these streams have not read: several tokens of one, or one of each."""
        from vllm.forward_context import set_forward_context

        if self._model is None:
            raise RuntimeError("second streams are not attached to the model")
        self.cache.make_room(max(stream.held for stream in streams), self._device)
        embeds = torch.cat([x for stream in streams for x in stream.embeds])
        positions = torch.cat([x for stream in streams for x in stream.positions], dim=-1)
        config = self.worker.vllm_config
        self.running = self._plan(asked, streams, embeds.device)
        names = config.compilation_config.static_forward_context
        try:
            with set_forward_context(dict.fromkeys(names, self.running), config, skip_compiled=True, slot_mapping={}):
                hidden = self._model(input_ids=None, positions=positions, inputs_embeds=embeds)
        finally:
            self.running = None
        counts = torch.tensor([stream.held - stream.length for stream in streams], device=hidden.device)
        for stream in streams:
            stream.length, stream.embeds, stream.positions = stream.held, [], []
        logits: Tensor = self._model.compute_logits(hidden[counts.cumsum(0) - 1])
        return logits

    def _plan(self, asked: Sequence[Asked], streams: Sequence[Stream], device: torch.device) -> Pass:
        """Attention of the pass: all its rows, edited where the request's methods say so."""
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
                    requests=self.worker.requests,
                    parts=parts_of(self.worker.requests, slots[order], begin[order] + piece),
                    count=count,
                    tokens=torch.from_numpy(tokens).to(device),
                    queries=torch.from_numpy(queries).to(device),
                    real=None,
                    slots=torch.from_numpy(slots[order]).to(device),
                    keys=keys,
                    unseen=None if self.cache.unseen is None else self.cache.unseen[place, :keys],
                    memo={"place": place, "in_order": in_order, "straight": straight},
                )
            )
        per_token = torch.from_numpy(np.repeat(places, counts)).to(device)
        return Pass(self, rows, per_token, torch.from_numpy(at).to(device))

    def attend(self, impl: Any, layer: Any, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
        """Attention of one layer in a second stream: its cache takes the new tokens in, then all rows are computed."""
        running, name = self.running, str(layer.layer_name)
        if running is None:
            raise RuntimeError("no second stream is running")
        keys, values = self.cache.of_layer(name, key)
        keys[running.places, :, running.at] = key
        values[running.places, :, running.at] = value
        index = self.worker.layer_index(layer)
        for rows in running.rows:
            edited = self._fused(impl, query, keys, values, rows, index)
            if edited is None:
                edited = impl.edited(query, (keys, values), rows, index, self.worker)
            if rows.memo["straight"]:
                output.copy_(edited.view(output.shape))
            else:
                output.index_copy_(0, rows.tokens, edited.to(output.dtype))
        return output

    def _fused(self, impl: Any, query: Tensor, keys: Tensor, values: Tensor, rows: Rows, layer: int) -> Tensor | None:
        """Output (B * count, H, D) of rows whose edits can be added to the scores; None where one cannot."""
        plans = [part.group.layers[layer] for part in rows.parts if not part.group.broken]
        if impl.logits_soft_cap or any(plan.edits and not plan.gains_only for plan in plans):
            return None
        batch, count = rows.queries.shape
        asked = query if rows.memo["straight"] else query.index_select(0, rows.tokens)
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
        """Token flags of the pass that is running."""
        if self.running is not None:
            self.cache.note(flags, index, name, self.running.places, self.running.at)
