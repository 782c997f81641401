"""The second stream on a server: its own dense cache in the worker, and rows in the main forward pass or one behind it.

The embeddings of a request's tokens are kept. Once its prompt is complete the method says what the second stream sees
of the image, and it is read in a pass of its own. Every later token it reads beside its main stream, in one more row of
the same pass, where nothing in that pass counts on its number of tokens; elsewhere in a pass of its own, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from grounddecode.engines.overwrite import overwritten
from grounddecode.engines.vllm.attention.plan import Newest
from grounddecode.engines.vllm.stream.aboard import Aboard
from grounddecode.engines.vllm.stream.dense import DenseCache
from grounddecode.engines.vllm.stream.passes import Pass, Stream, takes_more_rows

if TYPE_CHECKING:
    from grounddecode.engines.vllm.requests import Asked, Current, Layout

_PASSED = frozenset({"input_ids", "positions", "intermediate_tensors", "inputs_embeds"})  # what a pass is given


class Streams:
    """All second streams of a worker; their cache grows with them and is let go when there are none.

    Args:
        most: how many there may be at a time.
    """

    def __init__(self, worker: Current, most: int) -> None:
        self.worker = worker
        self.by_key: dict[str, Stream] = {}
        self.running: Pass | None = None
        self._aboard: Aboard | None = None
        self._model: Any = None
        self.cache = DenseCache(most)

    def attach(self, model: nn.Module) -> None:
        self._model = model
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._behind)

    @property
    def _device(self) -> torch.device:
        return self.worker.requests.image.device

    # -- what the main stream reads ----------------------------------------------------------------------------------
    def _before(self, _: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Keep what the main pass reads, and let streams read along."""
        layout = self.worker.layout
        if layout is None or (self.running is not None and not self.running.is_aboard):
            return None
        self.running = None
        embeds, positions = kwargs.get("inputs_embeds"), kwargs.get("positions")
        self.worker.positions = positions
        if embeds is None or positions is None:
            return None
        if self._aboard is None or not self._takes_more(kwargs) or not self._aboard.goes_on(layout):
            self._keep_inputs(layout, embeds, positions)
            self._aboard = self._come_aboard(layout) if self._takes_more(kwargs) else None
        if self._aboard is None:
            return None
        self.running = self._aboard.along
        joined = {"inputs_embeds": self._aboard.joined(embeds, 0), "positions": self._aboard.joined(positions, -1)}
        return args, kwargs | joined

    def _keep_inputs(self, layout: Layout, embeds: Tensor, positions: Tensor) -> None:
        """Keep the embeddings of this step's tokens, each once: a preempted request reads some again."""
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

    def _come_aboard(self, layout: Layout) -> Aboard | None:
        """The streams that read one token, which has come in this step."""
        there = layout.of_streams(self.worker.requests)
        riding = []
        for asked, start, past, length in there:
            stream = self._stream(asked)
            if stream.length and past <= stream.length == stream.held - 1 < length:
                riding.append((asked, stream, start + stream.length - past))
        if not riding:
            return None
        requests, streams, tokens = zip(*riding, strict=True)
        try:
            self.cache.make_room(max(stream.held for stream in streams), self._device)
            along = Pass(self.worker, self.cache, requests, streams, is_aboard=True)
            return Aboard(along, layout, tokens, are_all=len(riding) == len(there))
        except Exception as error:
            self.worker.requests.break_off([one.group for one in requests], error)
            return None

    def _behind(self, _: nn.Module, __: Any, output: Any) -> Any:
        """Take the rows of streams out of what the main pass gives."""
        if self.running is None or not self.running.is_aboard:
            return output
        members, self.running = self.running.members, None
        first = output.shape[0] - len(members)
        last = output[first:]
        for row, stream in enumerate(members):
            stream.has_read(last, row)
        return output[:first]

    def _takes_more(self, kwargs: dict[str, Any]) -> bool:
        """Whether streams may read along in a pass that is given this."""
        return self.may_ride and all(key in _PASSED for key, value in kwargs.items() if value is not None)

    @cached_property
    def may_ride(self) -> bool:
        """Whether streams may read along in the main pass."""
        return takes_more_rows(self.worker.vllm_config, self._model)

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
            self._aboard = None
            self.cache.clear()

    # -- the second forward ------------------------------------------------------------------------------------------
    def logits(self, asked: Sequence[Asked]) -> Tensor:
        """(R, vocabulary) next-token logits of the second streams of these requests, which have read all they can."""
        both = [(one, self._stream(one)) for one in asked]
        for one, stream in both:
            if stream.held - stream.length > 1:
                self._run([one], [stream])
        rest = [(one, stream) for one, stream in both if stream.held > stream.length]
        if rest:
            self._run([one for one, _ in rest], [stream for _, stream in rest])
        logits: Tensor = self._model.compute_logits(_newest([stream for _, stream in both]))
        return logits

    def begin(self, asked: Asked) -> None:
        """If its prompt has just become complete: overwrite, or hide, what the stream does not see of the image."""
        stream = self._stream(asked)
        if stream.length:
            return
        method, requests, n = asked.group.stream, self.worker.requests, asked.prompt_length
        if method is None or stream.held < n or not stream.recorded:
            raise RuntimeError("the prompt of a second stream did not come in whole")
        layers = torch.stack([stream.recorded[layer][:n] for layer in sorted(stream.recorded)])
        view = Newest(self.worker.requests, [asked]).view(np.array([n]))
        edit = method.second_stream(view.with_(image_attention=layers[:, None]))
        replaced = requests.image[asked.slot, :n] & ~edit.keep[0, :n]
        embeds = torch.cat(stream.embeds)
        here = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device)
        here[:n] = replaced
        stream.embeds = [overwritten(embeds[None], here[None], edit.scheme)[0]]
        stream.recorded.clear()
        self.cache.make_room(stream.held, self._device)
        if edit.scheme == "mask" and self.cache.unseen is not None:
            stream.hides = True
            self.cache.unseen[stream.place, :n] = replaced

    def _run(self, asked: Sequence[Asked], streams: Sequence[Stream]) -> None:
        """One forward pass over what these streams have not read: several tokens of one, or one of each."""
        from vllm.forward_context import set_forward_context

        if self._model is None:
            raise RuntimeError("second streams are not attached to the model")
        self.cache.make_room(max(stream.held for stream in streams), self._device)
        embeds = torch.cat([x for stream in streams for x in stream.embeds])
        positions = torch.cat([x for stream in streams for x in stream.positions], dim=-1)
        config = self.worker.vllm_config
        self.running = Pass(self.worker, self.cache, asked, streams)
        names = config.compilation_config.static_forward_context
        try:
            with set_forward_context(dict.fromkeys(names, self.running), config, skip_compiled=True, slot_mapping={}):
                hidden = self._model(input_ids=None, positions=positions, inputs_embeds=embeds)
        finally:
            self.running = None
        newest = np.cumsum([stream.held - stream.length for stream in streams]) - 1
        last = hidden[torch.from_numpy(newest).to(hidden.device)]
        for row, stream in enumerate(streams):
            stream.has_read(last, row)


def _newest(streams: Sequence[Stream]) -> Tensor:
    """(R, width) hidden states of their newest tokens: as they lie where they are together."""
    found = [stream.last for stream in streams if stream.last is not None]
    first = found[0][0]
    if len(found) == len(first) and all(last is first and row == i for i, (last, row) in enumerate(found)):
        return first
    return torch.stack([last[row] for last, row in found])
