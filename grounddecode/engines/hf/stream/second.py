"""Further streams: the same answer behind another prompt, run as further rows of one batch and one cache."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.hf.part import Part
from grounddecode.engines.hf.saliency.unembedding import few_rows, is_usual
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.stream import joined
from grounddecode.engines.hf.stream.image import hidden_from
from grounddecode.engines.hf.stream.keys import ChosenKeys, require_keys
from grounddecode.engines.hf.stream.reading import Piece, Reader, Stream
from grounddecode.engines.hf.stream.same_inputs import Places, kept_offsets, offset_holders
from grounddecode.method import Method, Needs
from grounddecode.view import Phase

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward


@dataclass
class _Kept:
    """What is kept of one sequence: the prompt while it is read, then what further streams may not see."""

    pieces: list[Piece] = field(default_factory=list)
    fresh: Any = None  # a cache like the main one, while that was empty
    hidden: Tensor | None = None  # (all rows, prompt) bool, keys that are hidden from the answer
    moved: Tensor | None = None  # (all rows,) long, see `Places`


class SecondStream(Part):
    """Runs one contrast stream beside the main one, or several.

    Prompt: the main rows are read first (they say what a further stream may see), then the prompt of each stream: the
    same with an edited image, without running the vision tower again, or inputs of its own; the caches are joined.
    Decode: one forward pass over the rows of all streams. The generation loop, its processors and its beams see the
    main rows throughout.
    """

    def __init__(self, method: Method) -> None:
        self.method = method

    def attach(self, binding: Binding) -> None:
        super().attach(binding)
        self._reader = Reader(self.method, binding)
        self._keeps_keys = Needs.KEY_SETS in self.method.active_needs()
        if self._keeps_keys:
            require_keys(self.method, binding.decoder)

    def act(self) -> None:
        head = self.binding.model.get_output_embeddings()
        if is_usual(head):
            self.binding.layer(head, "forward", few_rows(head))

    def begin(self, step: Step) -> None:
        step.record = self._reader.decides and step.completes_prompt

    def finish(self, sequences: Mapping[Any, Sequence]) -> None:
        """Hand the caches back with the main rows only."""
        for cache, sequence in sequences.items():
            if sequence.joined is not None:
                joined.part(cache, sequence.rows, sequence.joined.rows, sequence.further)

    def run(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.phase is Phase.DECODE:
            return self._decode(step, kwargs, forward)
        return self._read_prompt(step, kwargs, forward)

    # -- prompt --------------------------------------------------------------------------------------------------
    def _read_prompt(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        cache = transformers_names.given_cache(kwargs)
        kept = step.sequence.kept.setdefault(self, _Kept())
        if step.past == 0:
            if cache is not None:
                joined.require_plain(cache, self.method.name)
            kept.fresh = copy.deepcopy(cache)
        if self._keeps_keys and step.completes_prompt:
            step.keys = self._choosing(step)
        memo = self._reader.memo()
        kept.pieces.append(Piece(step.past, kwargs, memo))
        with memo:
            output = forward(kwargs)
        if not step.completes_prompt:
            return output
        streams = self._read_streams(step, kept, forward)
        if cache is None:  # a forward of the caller's own, whose model made one: the caller goes on with it
            cache = transformers_names.given_cache(vars(output))
        if cache is not None:
            joined.join(cache, [stream.cache for stream in streams], step.sequence.rows)
        step.sequence.join([stream.twin for stream in streams])
        kept.pieces, kept.fresh = [], None  # which hold the cache
        return output

    def _read_streams(self, step: Step, kept: _Kept, forward: Forward) -> list[Stream]:
        """The prompts of all further streams, and what decode steps have to know of them."""
        fresh = [copy.deepcopy(kept.fresh) for _ in range(self._reader.streams - 1)] + [kept.fresh]
        read = [self._reader.read(step, kept.pieces, n, cache, forward) for n, cache in enumerate(fresh)]
        image = step.sequence.image
        kept.hidden = _of_all([stream.hidden for stream in read], torch.zeros_like(image))
        kept.moved = _of_all([stream.moved for stream in read], image.new_zeros(len(image), dtype=torch.long))
        step.second_logits = _as_given(torch.stack([stream.logits for stream in read]))
        return read

    def _choosing(self, step: Step, first: int | None = None) -> ChosenKeys:
        if step.phase is Phase.MIXED:
            raise ValueError(
                f"{self.method.name}: every step chooses image keys anew beside those that are cached, leave use_cache "
                "as it is and assisted decoding off"
            )
        return ChosenKeys(self.method, step, first, told=functools.partial(self._reader.tell, step))

    # -- decode --------------------------------------------------------------------------------------------------
    def _decode(self, step: Step, kwargs: dict[str, Any], forward: Forward) -> Any:
        if step.length > 1:
            step.refuse_several(self.method.name)
        binding, sequence = self.binding, step.sequence
        kept, every = sequence.kept.get(self), sequence.joined
        if kept is None or every is None:
            raise RuntimeError(
                f"{self.method.name}: the prompt was not read in this session, start from the whole prompt"
            )
        rows, streams = sequence.rows, every.rows // sequence.rows
        places = Places(binding.decoder.stack, rows, step.past, step.length, kept.moved)
        binding.step = both = Step(every, step.n_layers, step.past + sequence.further, step.length, step.kernel)
        both.wanted, both.looks, both.parallel = step.wanted, step.looks, True
        if self._keeps_keys:
            both.keys = self._choosing(step, first=rows)
        try:
            with kept_offsets(offset_holders(binding.model), streams), places:
                output = forward(self._for_all(step, kept, kwargs, every))
        finally:
            binding.step = step
        step.seen = both.seen
        step.hidden = {layer: hidden[:rows] for layer, hidden in both.hidden.items()}
        step.second_logits = _as_given(output.logits[rows:, -1].view(streams - 1, rows, -1))
        return joined.main_rows(output, rows, step.total if sequence.further else None)

    def _for_all(self, step: Step, kept: _Kept, kwargs: dict[str, Any], every: Sequence) -> dict[str, Any]:
        """The inputs of a decode step for the rows of all streams."""
        changed = joined.repeated(kwargs, step.sequence.rows, every.rows // step.sequence.rows)
        mask = changed.get("attention_mask")
        if step.sequence.further:
            changed["attention_mask"] = self._longer_mask(mask, step, every)
            columns = changed.get(transformers_names.COLUMNS)
            if columns is not None:
                changed[transformers_names.COLUMNS] = columns + step.sequence.further
        elif kept.hidden is not None:
            if mask is None:  # `generate` drops a mask that hides nothing
                mask = torch.ones(every.rows, step.total, dtype=torch.long, device=kept.hidden.device)
            changed["attention_mask"] = hidden_from(mask, kept.hidden, step.total, self.method.name)
        return changed

    def _longer_mask(self, mask: Any, step: Step, every: Sequence) -> Tensor:
        """(all rows, columns) 0/1 where further streams have more columns than the main one."""
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"{self.method.name}: its prompt is longer, pass an attention_mask of (rows, tokens)")
        answer = step.total - step.sequence.prompt_length
        new = torch.ones(every.rows, answer) if mask is None else mask[:, step.sequence.prompt_length :]
        return torch.cat([every.there.long(), new.to(every.there.device).long()], dim=1)


def _as_given(logits: Tensor) -> Tensor:
    """(streams, rows, vocabulary) as methods are given them: rows first, and no axis for one stream."""
    return logits[0] if len(logits) == 1 else logits.transpose(0, 1)


def _of_all(parts: list[Tensor | None], none: Tensor) -> Tensor | None:
    """What is known of each further stream, below what the main rows have, which is nothing; None: nothing at all."""
    if all(part is None for part in parts):
        return None
    return torch.cat([none, *(none if part is None else part.to(none.device) for part in parts)])
