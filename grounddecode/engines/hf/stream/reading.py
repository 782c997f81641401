"""Prompts of further streams, read behind the main one: the same with edited pictures, or inputs of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import Sequence as Sequences
from grounddecode.engines.hf.step import Step
from grounddecode.engines.hf.stream import prefix, prompts
from grounddecode.engines.hf.stream.image import Overwrite, hidden_from
from grounddecode.engines.hf.stream.joined import grows, into_cache
from grounddecode.engines.hf.stream.keys import ChosenKeys
from grounddecode.engines.hf.stream.newest import NewestOnly
from grounddecode.engines.hf.stream.pixels import Edit, encoded_anew, shown, with_other_pictures
from grounddecode.engines.hf.stream.prompts import OtherPrompt
from grounddecode.engines.hf.stream.references import Bank
from grounddecode.engines.hf.stream.same_inputs import Memo, kept_offsets, offset_holders
from grounddecode.engines.hf.stream.shelf import Heads, Shelf, heads_of
from grounddecode.method import Method, Needs
from grounddecode.view import Phase, References, StreamEdit, StreamInputs

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.part import Forward


@dataclass(frozen=True)
class Piece:
    """A piece of the main prompt as it was read: where it begins, the arguments of its forward, what was noted then."""

    past: int
    kwargs: dict[str, Any]
    memo: Memo


@dataclass(frozen=True)
class Stream:
    """A further stream whose prompt is read.

    `logits`: (rows, vocabulary) of its newest token. `moved`: (rows,) long, how much further on its answer stands than
    that of the main rows; None: not at all. `hidden`: (rows, prompt) bool, columns of the main prompt that its answer
    does not see as keys; None: it sees all.
    """

    logits: Tensor
    twin: Sequences
    cache: Any
    moved: Tensor | None = None
    hidden: Tensor | None = None


class Reader:
    """Reads the prompts of the further streams that a method asks for."""

    def __init__(self, method: Method, binding: Binding) -> None:
        needs = method.active_needs()
        self.method, self.binding = method, binding
        self.decides = type(method).second_stream is not Method.second_stream
        self._edits_pixels = Needs.PIXELS in needs
        self._inputs = method.stream_inputs() if Needs.OTHER_INPUTS in needs else StreamInputs()
        if self.decides and Needs.OTHER_INPUTS in needs:
            raise ValueError(f"{method.name}: it has both second_stream and stream_inputs, define one of them")
        references = self._inputs.pictures if isinstance(self._inputs.pictures, References) else None
        self._other_pictures = self._edits_pixels or references is not None
        self._same_pictures = self._inputs.pictures == "same" and not self._edits_pixels
        if self._other_pictures and binding.decoder.runner is not binding.model:
            raise ValueError(
                f"{method.name}: {type(binding.model).__name__} has read its pictures before its decoder begins, use "
                "another model"
            )
        self._behind = prompts.ids_of(self._inputs.behind, binding.decoder, method.name)
        self._bank, self._shelf = None if references is None else Bank(references, binding, method.name), Shelf()

    @property
    def streams(self) -> int:
        return self._inputs.streams

    def memo(self) -> Memo:
        """What notes the features of the pictures, where further streams read the same ones."""
        return Memo(self._models() if self._same_pictures else [], self.binding.decoder.stack)

    def read(self, step: Step, pieces: Sequence[Piece], number: int, fresh: Any, forward: Forward) -> Stream:
        """The prompt of one stream through the model, into `fresh`, a cache like the main one."""
        if self._inputs.pictures == "none" or self._behind:
            return self._other(step, pieces, number, fresh, forward)
        return self._same(step, pieces, number, fresh, forward)

    # -- the main prompt, token by token -------------------------------------------------------------------------
    def _same(self, step: Step, pieces: Sequence[Piece], number: int, fresh: Any, forward: Forward) -> Stream:
        """In the same pieces, with edited or other pictures."""
        given, scheme, replaced, heads = step.sequence, "zeros", torch.zeros_like(step.sequence.image), None
        if self.decides:
            edit = self._decide(step)
            scheme = edit.scheme
            replaced = given.image & ~edit.keep[:, : given.prompt_length].to(given.image.device)
        if self._other_pictures:
            heads = self._heads(step, pieces, number, fresh)
            known = None if heads is None else self._shelf.found(heads)
            if heads is not None and known is not None:
                return self._behind_head(step, pieces[0], heads.length, known, fresh, forward)
            kwargs = self._with_pictures(step, self._whole(step, pieces)[0], number)
            pieces = [Piece(0, kwargs, pieces[0].memo)]
        twin, output = Sequences(given.prompt_length, given.image, given.ids, given.there), None
        for piece in pieces:
            ids = piece.kwargs.get("input_ids")
            length = (piece.kwargs["inputs_embeds"] if ids is None else ids).shape[1]
            changed = self._edited_inputs(scheme, piece, replaced, length)
            taken = self._take(step, pieces, prompts.same_tokens(given), changed, fresh)
            past = piece.past + taken
            overwrite = Overwrite(self.binding.decoder.stack, replaced, past, scheme)
            with self._reading(twin, past, length - taken, step), piece.memo.replay(), overwrite:
                output = forward(transformers_names.with_cache(prefix.rest(changed, taken), fresh))
        if heads is not None:
            self._shelf.keep(heads, fresh)
        return _read(output, twin, fresh, hidden=replaced if scheme == "mask" else None)

    def _heads(self, step: Step, pieces: Sequence[Piece], number: int, fresh: Any) -> Heads | None:
        """What the prompts begin with up to their references; None where it is not theirs alone, or not known."""
        kwargs, memo = pieces[0].kwargs, pieces[0].memo
        main = transformers_names.given_cache(kwargs)
        if self._bank is None or len(pieces) > 1 or None in (main, fresh) or not self._may_take(step, kwargs, main):
            return None
        known = shown(kwargs, self.binding, step)
        if known is None:
            return None
        pictures, shapes = known
        numbers, model = self._bank.numbers(pictures, number), self.binding.model
        what = [(numbers.get(prompt), *shape) for prompt, *shape in shapes]
        weights = self._shelf.weights(model, number)
        heads = heads_of(step.sequence, what, memo.positions, weights, model.config)
        return None if heads is None or prefix.sees_ahead(memo.mask, heads.length) else heads

    def _behind_head(
        self, step: Step, piece: Piece, length: int, known: prefix.Taken, fresh: Any, forward: Forward
    ) -> Stream:
        """The rest of the same prompts, whose references were read before."""
        given = step.sequence
        twin = Sequences(given.prompt_length, given.image, given.ids, given.there)
        prefix.put(known, fresh)
        places = piece.kwargs.get(transformers_names.POSITIONS)
        placed = piece.kwargs | {transformers_names.POSITIONS: piece.memo.positions if places is None else places}
        rest = transformers_names.with_cache(prefix.text_only(prefix.rest(placed, length)), fresh)
        with self._reading(twin, length, given.prompt_length - length, step):
            output = forward(rest)
        return _read(output, twin, fresh)

    def _decide(self, step: Step) -> StreamEdit:
        """The image edit, from the attention of the last prompt row in every layer that recorded it."""
        run = self.binding.run
        if step.phase is Phase.MIXED and run is not None and run.edit is not None:  # read anew, without a cache
            return run.edit  # layers that share keys may be given the newest rows alone (Gemma 4)
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
        if Needs.KEY_SETS not in self.method.active_needs():
            self.tell(step, edit.keep, view.image)
        if run is not None:
            run.edit = edit
        return edit

    def tell(self, step: Step, keep: Tensor, image: Tensor) -> None:
        """To a trace: which image tokens the second stream sees. keep, image: (rows, tokens) bool."""
        trace = self.binding.trace
        if trace is None:
            return
        share = keep.sum(dim=-1) / image.sum(dim=-1).clamp(min=1)
        trace.record(step.generated, self.method.name, "kept_share", share)
        if "kept" in trace.want:
            trace.record(step.generated, self.method.name, "kept", keep & image)

    def _edited_inputs(self, scheme: str, piece: Piece, replaced: Tensor, length: int) -> dict[str, Any]:
        """The same inputs; under `mask` the hidden image tokens are padding for every row, but keep their places."""
        kwargs, positions = piece.kwargs, piece.memo.positions
        if scheme != "mask":
            return dict(kwargs)
        mask, total = kwargs.get("attention_mask"), piece.past + length
        if mask is None:
            mask = torch.ones(replaced.shape[0], total, dtype=torch.long, device=replaced.device)
        hidden = {"attention_mask": hidden_from(mask, replaced, total, self.method.name)}
        if positions is not None and kwargs.get(transformers_names.POSITIONS) is None:
            hidden[transformers_names.POSITIONS] = positions  # else they are counted from a mask with holes
        return kwargs | hidden

    # -- other tokens --------------------------------------------------------------------------------------------
    def _other(self, step: Step, pieces: Sequence[Piece], number: int, fresh: Any, forward: Forward) -> Stream:
        """A prompt of other tokens, in one piece."""
        kwargs, positions = self._whole(step, pieces)
        if self._other_pictures:
            kwargs = self._with_pictures(step, kwargs, number)
        sequence = prompts.grown(step.sequence, kwargs.get("input_ids"))
        prompt = self._prompt(sequence, fresh)
        given = prompts.inputs_of(prompt, kwargs, sequence, self.binding.decoder, positions)
        twin = prompt.sequence(sequence.prompt_length - step.sequence.prompt_length)
        if step.sequence.vision is not None and not self._other_pictures:
            twin.vision = prompt.seen(step.sequence.vision)
        cached = into_cache(given, kwargs, fresh)
        known = self._take(step, pieces, prompt, cached, fresh)
        cached = prefix.rest(cached, known)
        if not bool(prompt.image[:, known:].any()):
            cached = prefix.text_only(cached)
        with self._reading(twin, known, prompt.length - known, step), pieces[0].memo.replay():
            output = forward(cached)
        moved = prompts.moved(prompt, given, kwargs, sequence, positions)
        return _read(output, twin, fresh, moved, _hidden(twin, step.sequence))

    def _prompt(self, sequence: Sequences, fresh: Any) -> OtherPrompt:
        decoder = self.binding.decoder
        fixed = fresh is not None and not grows(fresh)
        if self._inputs.pictures == "none":
            prompt = prompts.without_pictures(sequence, decoder)
            return prompt.padded(sequence.prompt_length) if fixed else prompt
        if fixed:
            raise ValueError(
                f"{self.method.name}: a cache of fixed size has no room for text behind the picture, use a dynamic one"
            )
        return prompts.with_text_behind(sequence, decoder, self._behind)

    # -- both ----------------------------------------------------------------------------------------------------
    def _take(self, step: Step, pieces: Sequence[Piece], prompt: OtherPrompt, given: dict[str, Any], fresh: Any) -> int:
        """How many first columns of `prompt`, read as `given`, need not be: they are in the main cache, and in `fresh`.

        A model puts pictures in all at once, so they are on one side, of all rows.
        """
        main, sequence, memo = transformers_names.given_cache(pieces[0].kwargs), step.sequence, pieces[0].memo
        if len(pieces) > 1 or main is None or fresh is None or not self._may_take(step, given, main):
            return 0
        read_anew = torch.zeros_like(sequence.image) if self._same_pictures and self._behind else sequence.image
        known = prefix.common_length(prompt, sequence.there, read_anew)
        if prompt.image[:, :known].any() and prompt.image[:, known:].any():
            known = prefix.common_length(prompt, sequence.there, sequence.image)
        source = prompt.source[:, :known].masked_fill(~prompt.there[:, :known], -1)
        if not known or not prefix.stays(source, memo, given):
            return 0
        prefix.put(prefix.taken(main, source), fresh)
        return known

    def _may_take(self, step: Step, given: dict[str, Any], main: Any) -> bool:
        """Whether what earlier columns are is their own matter, in this model and under all methods."""
        binding, mask = self.binding, given.get("attention_mask")
        alone = not (binding.every_token or step.sequence.memory or torch.is_grad_enabled() or binding.model.training)
        flat = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
        return step.phase is Phase.PROMPT and alone and flat and prefix.shareable(main, binding.decoder.text)

    def _whole(self, step: Step, pieces: Sequence[Piece]) -> tuple[dict[str, Any], Tensor | None]:
        """Arguments of one forward pass over the main prompt, and the positions that its layers were given."""
        read = [(piece.kwargs, piece.memo.positions) for piece in pieces]
        kwargs, positions = prompts.whole_prompt(read, step.sequence.there)
        if len(pieces) > 1 and self._inputs.pictures != "none":
            kwargs |= encoded_anew(self.binding, {}, self.method)
        return kwargs, positions

    def _with_pictures(self, step: Step, kwargs: dict[str, Any], number: int) -> dict[str, Any]:
        edit: Edit = self.method.edit_pixels if self._bank is None else self._bank.stream(number)
        return with_other_pictures(kwargs, edit, self.method, self.binding, step)

    @contextmanager
    def _reading(self, twin: Sequences, past: int, length: int, step: Step) -> Iterator[None]:
        """Around a forward pass of a further stream: it is a step of `twin`, and only its newest token is read."""
        binding = self.binding
        newest = None if binding.every_token else step.n_layers - 1
        main, binding.step = binding.step, Step(twin, step.n_layers, past, length, step.kernel, newest_only=newest)
        if isinstance(step.keys, ChosenKeys):
            binding.step.keys = ChosenKeys(self.method, step, first=0, keep=step.keys.keep)
        try:
            only = nullcontext() if newest is None else NewestOnly(binding.decoder.stack)
            with kept_offsets(self._models()), only:
                yield
        finally:
            binding.step = main

    def _models(self) -> list[Any]:
        return offset_holders(self.binding.model)


def _read(
    output: Any, twin: Sequences, fresh: Any, moved: Tensor | None = None, hidden: Tensor | None = None
) -> Stream:
    """`fresh` is None where the model makes caches itself."""
    cache = transformers_names.given_cache(vars(output)) if fresh is None else fresh
    return Stream(output.logits[:, -1], twin, cache, moved, hidden)


def _hidden(twin: Sequences, main: Sequences) -> Tensor | None:
    """Columns of the main prompt where a shorter one has padding; None for a longer one."""
    more = main.prompt_length - twin.prompt_length
    return None if more < 0 else nn.functional.pad(~twin.there, (more, 0), value=True)
