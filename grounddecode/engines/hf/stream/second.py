"""The second stream: the same prompt with an edited image, run as further rows of one batch and one cache."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.saliency.unembedding import few_rows
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.stream.image import Overwrite, hidden_from
from grounddecode.engines.hf.stream.keys import ChosenKeys, require_keys
from grounddecode.engines.hf.stream.newest import NewestOnly
from grounddecode.engines.hf.stream.pixels import with_other_pictures
from grounddecode.engines.hf.stream.same_inputs import Memo, SamePlaces, kept_offsets, offset_holders
from grounddecode.method import Method, Needs
from grounddecode.view import Phase, StreamEdit

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward


@dataclass
class _Reading:
    """What the second stream keeps of one sequence: the prompt while it is read, then what it may not see."""

    chunks: list[tuple[int, dict[str, Any], Memo]] = field(default_factory=list)
    fresh: Any = None  # a cache like the main one, while that was empty
    edit: StreamEdit | None = None
    replaced: Tensor | None = None  # (rows, prompt) bool, image tokens that are overwritten or hidden


class SecondStream(Part):
    """Runs a contrast stream beside the main one.

    Prompt: the main rows are read first (they say what the second stream may see), then the same inputs once more with
    the edited image, without running the vision tower again; both caches are joined. Decode: one forward pass over 2N
    rows. The generation loop, its processors and its beams see N rows throughout.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self._decides = type(method).second_stream is not Method.second_stream
        self._edits_pixels = Needs.PIXELS in method.active_needs()
        self._keeps_keys = Needs.KEY_SETS in method.active_needs()

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        if self._edits_pixels and binding.decoder.runner is not binding.model:
            raise ValueError(
                f"{self.method.name}: {type(binding.model).__name__} has read its pictures before its decoder begins, "
                "use another model"
            )
        if self._keeps_keys:
            require_keys(self.method, binding.decoder)

    def act(self) -> None:
        head = self.binding.model.get_output_embeddings()
        usual = type(head) is nn.Linear and type(head.weight) is nn.Parameter and head.bias is None
        if usual and "forward" not in vars(head):  # nobody's own, nor quantised, nor offloaded
            self.binding.layer(head, "forward", few_rows(head))

    def begin(self, step: Step) -> None:
        step.record = self._decides and step.completes_prompt

    def finish(self, sequences: Mapping[Any, Sequence]) -> None:
        """Hand the caches back with the main rows only."""
        for cache, sequence in sequences.items():
            if sequence.joined is not None:
                _select_rows(cache, sequence.rows)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.phase is Phase.DECODE:
            return self._decode(step, kwargs, forward)
        return self._read_prompt(step, kwargs, forward)

    # -- prompt --------------------------------------------------------------------------------------------------
    def _read_prompt(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        cache = transformers_names.given_cache(kwargs)
        reading = step.sequence.kept.setdefault(self, _Reading())
        if step.past == 0:
            reading.fresh = copy.deepcopy(cache)
        if self._keeps_keys and step.completes_prompt:
            step.keys = self._choosing(step)
        memo = Memo([] if self._edits_pixels else self._models(), self.binding.decoder.stack)
        reading.chunks.append((step.past, kwargs, memo))
        with memo:
            output = forward(kwargs)
        if not step.completes_prompt:
            return output
        reading.edit = self._decide(step)
        second = self._second_prompt(step, reading, reading.edit, forward)
        step.second_logits = second.logits[:, -1]
        if cache is None:  # a forward of the caller's own, whose model made one: the caller goes on with it
            cache, self._fresh = (transformers_names.given_cache(vars(result)) for result in (output, second))
        if cache is not None:
            _join(cache, reading.fresh, step.sequence.rows)
        reading.chunks, reading.fresh = [], None  # which hold the cache
        return output

    def _decide(self, step: Step) -> StreamEdit:
        """The image edit, from the attention of the last prompt row in every layer that recorded it."""
        row = step.sequence.prompt_length - 1 - step.past
        layers = [step.recorded[layer] for layer in sorted(step.recorded)]
        device = layers[0].device if layers else step.sequence.image.device
        attention = torch.stack([layer.to(device) for layer in layers]) if layers else None
        view = step.view(row, row + 1, step.total, device).with_(image_attention=attention)
        edit = self.method.second_stream(view)
        if edit.scheme == "mask" and self.binding.decoder.is_hybrid:
            raise ValueError(
                f"{self.method.name}: scheme 'mask' hides keys and some layers of this model have none, use 'zeros'"
            )
        if not self._keeps_keys:
            self._tell(step, edit.keep, view.image)
        return edit

    def _tell(self, step: Step, keep: Tensor, image: Tensor) -> None:
        """To a trace: which image tokens the second stream sees. keep, image: (rows, tokens) bool."""
        trace = self.binding.trace
        if trace is None:
            return
        share = keep.sum(dim=-1) / image.sum(dim=-1).clamp(min=1)
        trace.record(step.generated, self.method.name, "kept_share", share)
        if "kept" in trace.want:
            trace.record(step.generated, self.method.name, "kept", keep & image)

    def _choosing(self, step: Step, first: int | None = None) -> ChosenKeys:
        if step.phase is Phase.MIXED:
            raise ValueError(
                f"{self.method.name}: every step chooses image keys anew beside those that are cached, leave use_cache "
                "as it is"
            )
        return ChosenKeys(self.method, step, first, told=functools.partial(self._tell, step))

    def _second_prompt(self, step: Step, reading: _Reading, edit: StreamEdit, forward: Forward) -> Any:
        """The edited prompt through the model, chunk by chunk as the main one, into a cache of its own."""
        binding = self.binding
        main, output, stack = binding.step, None, binding.decoder.stack
        replaced = step.sequence.image & ~edit.keep[:, : step.sequence.prompt_length].to(step.sequence.image.device)
        given = step.sequence
        twin = Sequence(given.prompt_length, given.image, given.ids, given.there)
        newest = None if binding.every_token else step.n_layers - 1
        for past, kwargs, memo in reading.chunks:
            length = (kwargs["input_ids"] if kwargs.get("input_ids") is not None else kwargs["inputs_embeds"]).shape[1]
            binding.step = Step(twin, step.n_layers, past, length, newest_only=newest)
            if isinstance(step.keys, ChosenKeys):
                binding.step.keys = ChosenKeys(self.method, step, first=0, keep=step.keys.keep)
            if self._edits_pixels:
                kwargs = self._with_other_pictures(step, reading, kwargs)
            changed = self._edited_inputs(edit, kwargs, replaced, past, length, memo.positions)
            try:
                with (
                    memo.replay(),
                    kept_offsets(self._models()),
                    Overwrite(stack, replaced, past, edit.scheme),
                    nullcontext() if newest is None else NewestOnly(stack),
                ):
                    output = forward(transformers_names.with_cache(changed, reading.fresh))
            finally:
                binding.step = main
        step.sequence.join(twin)
        reading.replaced = replaced
        return output

    def _with_other_pictures(self, step: Step, reading: _Reading, kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(reading.chunks) > 1:
            raise ValueError(f"{self.method.name}: pictures cannot be read in chunks, unset prefill_chunk_size")
        return with_other_pictures(kwargs, self.method, self.binding, step)

    def _edited_inputs(
        self,
        edit: StreamEdit,
        kwargs: dict[str, Any],
        replaced: Tensor,
        past: int,
        length: int,
        positions: Tensor | None,
    ) -> dict[str, Any]:
        """The same inputs; under `mask` the hidden image tokens are padding for every row, but keep their places."""
        if edit.scheme != "mask":
            return dict(kwargs)
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(replaced.shape[0], past + length, dtype=torch.long, device=replaced.device)
        hidden = {"attention_mask": hidden_from(mask, replaced, past + length, self.method.name)}
        if positions is not None and kwargs.get(transformers_names.POSITIONS) is None:
            hidden[transformers_names.POSITIONS] = positions  # else they are counted from a mask with holes
        return kwargs | hidden

    def _models(self) -> list[Any]:
        return offset_holders(self.binding.model)

    # -- decode --------------------------------------------------------------------------------------------------
    def _decode(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.length > 1:
            raise ValueError(f"{self.method.name} cannot verify drafted tokens, switch assisted decoding off")
        binding, reading = self.binding, step.sequence.kept.get(self)
        if reading is None or step.sequence.joined is None:
            raise RuntimeError(
                f"{self.method.name}: the prompt was not read in this session, start from the whole prompt"
            )
        rows = step.sequence.rows
        binding.step = both = Step(step.sequence.joined, step.n_layers, step.past, step.length)
        both.wanted, both.looks = step.wanted, step.looks
        if self._keeps_keys:
            both.keys = self._choosing(step, first=rows)
        try:
            with kept_offsets(self._models(), doubled=True), SamePlaces(binding.decoder.stack, rows, step.length):
                output = forward(self._doubled(reading, kwargs, rows, step.past, step.length))
        finally:
            binding.step = step
        step.seen = both.seen
        step.hidden = {layer: hidden[:rows] for layer, hidden in both.hidden.items()}
        step.second_logits = output.logits[rows:, -1]
        return _main_rows(output, rows)

    def _doubled(self, reading: _Reading, kwargs: dict[str, Any], rows: int, past: int, length: int) -> dict[str, Any]:
        """The inputs of a decode step for the rows of both streams."""
        fixed = transformers_names.NOT_ROWS
        doubled = {name: value if name in fixed else _twice(name, value, rows) for name, value in kwargs.items()}
        mask, replaced = doubled.get("attention_mask"), reading.replaced
        if reading.edit is not None and reading.edit.scheme == "mask" and replaced is not None:
            if mask is None:  # `generate` drops a mask that hides nothing
                mask = torch.ones(2 * rows, past + length, dtype=torch.long, device=replaced.device)
            hidden = torch.cat([torch.zeros_like(replaced), replaced])
            doubled["attention_mask"] = hidden_from(mask, hidden, past + length, self.method.name)
        return doubled


def _twice(name: str, value: Any, rows: int) -> Any:
    """A row-aligned input for both streams; anything else as it is."""
    if isinstance(value, dict):
        return {key: _twice(key, entry, rows) for key, entry in value.items()}
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if name == transformers_names.POSITIONS and value.dim() == 3:  # multimodal rotary positions: (3 or 4, rows, tokens)
        return torch.cat([value, value], dim=1)
    return torch.cat([value, value]) if value.shape[0] == rows else value


def _row_tensors(layer: Any, rows: int) -> list[tuple[dict[Any, Any], Any]]:
    """Where a cache layer keeps tensors of its rows: attributes, or states that recurrent layers keep by number."""
    holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
    return [
        (holder, key)
        for holder in holders
        for key, value in holder.items()
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == rows
    ]


def _join(cache: Any, other: Any, rows: int) -> None:
    """Move the rows of `other` behind those of every layer of `cache`."""
    layers = transformers_names.cache_layers
    for mine, theirs in zip(layers(cache), layers(other), strict=True):
        others = _row_tensors(theirs, rows)
        for (holder, key), (other_holder, other_key) in zip(_row_tensors(mine, rows), others, strict=True):
            holder[key] = torch.cat([holder[key], other_holder.pop(other_key)])
        _set_room(mine, 2 * rows)


def _set_room(layer: Any, rows: int) -> None:
    if hasattr(layer, transformers_names.CACHE_ROWS):
        setattr(layer, transformers_names.CACHE_ROWS, rows)


def _select_rows(cache: Any, rows: int) -> None:
    """Keep the first `rows` rows of a joined cache."""
    for layer in transformers_names.cache_layers(cache):
        for holder, key in _row_tensors(layer, 2 * rows):
            holder[key] = holder[key][:rows]
        _set_room(layer, rows)


def _main_rows(output: Any, rows: int) -> Any:
    """The output of the doubled batch with the main rows only."""
    output.logits = output.logits[:rows]
    for name in transformers_names.ROW_OUTPUTS:
        value = getattr(output, name, None)
        if value is not None:
            setattr(output, name, tuple(entry[:rows] for entry in value))
    return output
