"""Prompts of a second stream that differ from the main one: without its pictures, or with further text behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.checkpoint.reading import processor_of
from grounddecode.engines.hf.generation import Sequence as Sequences
from grounddecode.images.layout import ImageLayout
from grounddecode.view import VisionView

if TYPE_CHECKING:
    from grounddecode.engines.hf.decoder import Decoder


@dataclass(frozen=True)
class OtherPrompt:
    """A left-padded prompt made of the columns of the main one.

    `source`: (rows, length) long, the column of the main prompt that each token comes from; -1: padding, or put in.
    `there`: bool, no padding. `ids`: long. `image`: bool, image tokens. `text_only`: no row has an image.
    """

    source: Tensor
    there: Tensor
    ids: Tensor
    image: Tensor
    text_only: bool

    @property
    def length(self) -> int:
        return self.source.shape[1]

    def padded(self, length: int) -> OtherPrompt:
        """With further padding on the left, `length` tokens in all."""
        more = length - self.length
        if more <= 0:
            return self
        ids = torch.cat([self.ids[:, -1:].expand(-1, more), self.ids], dim=1)
        source, there, image = (
            nn.functional.pad(x, (more, 0), value=v) for x, v in ((self.source, -1), (self.there, 0), (self.image, 0))
        )
        return OtherPrompt(source, there, ids, image, self.text_only)

    def sequence(self, answer: int) -> Sequences:
        """The prompt as the engine keeps one, less the newest `answer` tokens, which are no prompt's."""
        length = self.length - answer
        image, ids, there = (x[:, :length] for x in (self.image, self.ids, self.there))
        return Sequences(length, image, ids, there)

    def seen(self, vision: VisionView) -> VisionView:
        """What the vision tower said of the main prompt's images, for these columns."""
        image, patch = self.of(vision.image_of_key, -1), self.of(vision.patch_of_key)
        return replace(vision, image_of_key=image, patch_of_key=patch)

    def of(self, columns: Tensor, fill: Any = 0) -> Tensor:
        """What is known of the columns of the main prompt (..., rows, prompt) for these; `fill` where there is none."""
        source = self.source.to(columns.device)
        index = source.clamp(min=0).expand(*columns.shape[:-1], self.length)
        return columns.gather(-1, index).masked_fill(source < 0, fill)


def same_tokens(sequence: Sequences) -> OtherPrompt:
    """The main prompt itself."""
    columns = torch.arange(sequence.prompt_length, device=sequence.ids.device).expand_as(sequence.ids)
    return OtherPrompt(columns, sequence.there, sequence.ids, sequence.image, text_only=False)


def grown(sequence: Sequences, ids: Tensor | None) -> Sequences:
    """The prompts with the tokens of their answers behind them, where a forward reads both; `ids` are all it reads."""
    more = 0 if ids is None else ids.shape[1] - sequence.prompt_length
    if ids is None or more <= 0:
        return sequence
    there, image = (
        nn.functional.pad(x, (0, more), value=v) for x, v in ((sequence.there, True), (sequence.image, False))
    )
    return Sequences(ids.shape[1], image, ids, there)


def without_pictures(sequence: Sequences, decoder: Decoder) -> OtherPrompt:
    """The text of prompts: image tokens, row breaks, begin and end markers of images are gone, the rest closes up.

    Raises:
        ValueError: a prompt that is nothing but pictures.
    """
    kept = sequence.there & ~ImageLayout.framed(sequence.ids, decoder.model.config)
    counts = kept.sum(dim=-1)
    if not bool(counts.min()):
        raise ValueError(
            "a prompt holds nothing but its pictures, so that nothing is left without them: add a question"
        )
    order = kept.to(torch.int8).argsort(dim=-1, stable=True)[:, -int(counts.max()) :]
    there = kept.gather(-1, order)
    ids = sequence.ids.gather(-1, order)
    ids = ids.where(there, ids[:, -1:])  # a model looks for pictures by their tokens, in padding too
    return OtherPrompt(order.masked_fill(~there, -1), there, ids, torch.zeros_like(there), text_only=True)


def with_text_behind(sequence: Sequences, decoder: Decoder, text: Sequence[int]) -> OtherPrompt:
    """Prompts with the ids of `text` directly behind the end marker of their last image, or its last image token."""
    framed = ImageLayout.framed(sequence.ids, decoder.model.config)
    width, more = sequence.prompt_length, len(text)
    columns = torch.arange(width + more, device=framed.device)
    at = torch.where(framed, torch.arange(1, width + 1, device=framed.device), 0).amax(dim=-1, keepdim=True)
    new = (columns >= at) & (columns < at + more)
    source = torch.where(columns < at, columns, columns - more).masked_fill(new, -1)
    there, ids = _gathered(sequence.there, source, False), _gathered(sequence.ids, source, 0)
    given = torch.tensor(text, device=ids.device)
    ids = ids.where(~new, given[(columns - at).clamp(0, more - 1)]).where(at > 0, _padded(sequence.ids, more))
    return OtherPrompt(source, there | (new & (at > 0)), ids, _gathered(sequence.image, source, False), text_only=False)


def _gathered(columns: Tensor, source: Tensor, fill: Any) -> Tensor:
    return columns.gather(-1, source.clamp(min=0)).masked_fill(source < 0, fill)


def _padded(ids: Tensor, more: int) -> Tensor:
    """(rows, more + prompt): some id of each row before it."""
    return torch.cat([ids[:, -1:].expand(-1, more), ids], dim=1)


def whole_prompt(
    chunks: Sequence[tuple[dict[str, Any], Tensor | None]], there: Tensor
) -> tuple[dict[str, Any], Tensor | None]:
    """Arguments of one forward pass over a prompt that was read in pieces, less its pictures, and its positions.

    Args:
        chunks: the arguments of the forward over each piece, and the positions its layers were given.
        there: (rows, prompt) bool, no padding.
    """
    if len(chunks) == 1:
        return chunks[0]
    whole = dict(chunks[-1][0])
    whole["attention_mask"] = there.long()  # beside a static cache, a piece has a mask of its own tokens alone
    for name in ("input_ids", "inputs_embeds", transformers_names.POSITIONS, *transformers_names.TOKEN_TYPES):
        parts = [kwargs.get(name) for kwargs, _ in chunks]
        whole[name] = torch.cat(parts, dim=1 if name == "inputs_embeds" else -1) if _tensors(parts) else None
    positions = [given for _, given in chunks]
    return whole, torch.cat(positions, dim=-1) if _tensors(positions) else None


def _tensors(parts: Sequence[Any]) -> TypeGuard[list[Tensor]]:
    return all(isinstance(part, Tensor) for part in parts)


def positions_of(prompt: OtherPrompt, main: Tensor, there: Tensor) -> Tensor:
    """Where the tokens of `prompt` stand, (..., rows, length), as the model counts them.

    Text counts on from where the row's first token stands; in front of what was put in nothing moves, behind it
    everything by as many places.

    Args:
        main: (..., rows, prompt) positions of the main prompt, 2 axes, or 3 under multimodal rotary embeddings.
        there: (rows, prompt) bool, its padding not.
    """
    here = prompt.there.to(main.device)
    if prompt.text_only:
        first = there.to(main.device).to(torch.int8).argmax(dim=-1, keepdim=True)
        start = main.gather(-1, first.expand(*main.shape[:-1], 1))
        return start + (here.cumsum(dim=-1) - 1).clamp(min=0)
    new = here & (prompt.source.to(main.device) < 0)
    moved = prompt.of(main) + (prompt.source.to(main.device) >= 0) * new.cumsum(dim=-1)
    behind = moved.new_zeros(new.shape) + torch.arange(new.shape[1], device=main.device)
    count = new.sum(dim=-1, keepdim=True)
    at = torch.where(new, behind, -1).amax(dim=-1, keepdim=True) + 1 - count  # where it begins, 0 where nothing was
    last = (main.shape[-1] - 1) - at  # tokens behind it, less one
    follows = main.gather(-1, at.clamp(max=main.shape[-1] - 1).expand(*main.shape[:-1], 1))
    if bool((last < 0).any()):  # nothing follows: behind the farthest token
        farthest = main.masked_fill(~there.to(main.device), 0).amax(dim=-1, keepdim=True)
        farthest = farthest.amax(dim=tuple(range(main.dim() - 2)), keepdim=True) if main.dim() > 2 else farthest
        follows = follows.where(last >= 0, farthest + 1)
    return moved.where(~new, follows + new.cumsum(dim=-1) - 1)


def moved(
    prompt: OtherPrompt, given: Mapping[str, Any], kwargs: Mapping[str, Any], main: Sequences, positions: Tensor | None
) -> Tensor:
    """(rows,) long: how much further on an answer stands behind `prompt`, read as `given`, than behind the main one."""
    named, here = (x.get(transformers_names.POSITIONS) for x in (kwargs, given))
    there = positions if named is None else named
    if not isinstance(there, Tensor) or not isinstance(here, Tensor):  # layers count columns
        return torch.full((main.rows,), prompt.length - main.prompt_length, device=main.image.device)
    apart = here[..., -1] - there[..., -1].to(here.device)
    return apart if apart.dim() == 1 else apart.amax(dim=0)


def ids_of(text: str | tuple[int, ...], decoder: Decoder, method: str) -> tuple[int, ...]:
    """The ids of a text, by the tokenizer of a model's checkpoint, without special tokens; ids as they are.

    Raises:
        ValueError: a tokenizer that is not to be found, or no id of this model.
    """
    if not text:
        return ()
    if isinstance(text, str):
        tokenizer = processor_of(decoder.model, f"{method}: the tokenizer that reads {text!r}").tokenizer
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    size = decoder.text.vocab_size  # not of the embedding, in whose place an adapter may stand
    if any(not 0 <= token < size for token in text if isinstance(token, int)):
        raise ValueError(f"{method}: the ids behind the picture are {text}, this model has ids 0 to {size - 1}")
    return tuple(token for token in text if isinstance(token, int))


def inputs_without_pictures(
    kwargs: Mapping[str, Any], sequence: Sequences, decoder: Decoder, positions: Tensor | None = None
) -> dict[str, Any]:
    """Arguments of one forward pass over the whole prompts of all rows without their pictures, into no cache.

    This is the one meaning of "the prompt without its picture": the second stream of text-only contrasts reads it, and
    so does a probe that looks at hidden states with and without the picture. The newest token of every row is the
    last column, as in the main prompt.

    Args:
        kwargs: arguments of a forward over the main prompt, from which those come that have nothing to do with inputs.
        sequence: what is known of the main prompt.
        positions: as the decoder layers are given those of the main prompt, (..., rows, prompt); None: those in
            `kwargs`, and if there are none the model counts by itself.

    Raises:
        ValueError: a prompt that is nothing but pictures.
    """
    return inputs_of(without_pictures(sequence, decoder), kwargs, sequence, decoder, positions)


def inputs_of(
    prompt: OtherPrompt,
    kwargs: Mapping[str, Any],
    sequence: Sequences,
    decoder: Decoder,
    positions: Tensor | None = None,
) -> dict[str, Any]:
    """Arguments of one forward pass over `prompt`, into no cache; see `inputs_without_pictures`."""
    named = kwargs.get(transformers_names.POSITIONS)
    main = positions if named is None else named
    mask = prompt.there.long()
    changed: dict[str, Any] = {"input_ids": prompt.ids, "attention_mask": mask, "use_cache": False}
    if isinstance(main, Tensor) and main.shape[-1] == sequence.prompt_length:
        main = main.expand(*main.shape[:-2], sequence.rows, main.shape[-1])
        changed[transformers_names.POSITIONS] = positions_of(prompt, main, sequence.there)
    for name in transformers_names.TOKEN_TYPES:  # text too: without them PaliGemma reads as its padding happens to lie
        if isinstance(kwargs.get(name), Tensor):
            changed[name] = prompt.of(kwargs[name])
    if prompt.text_only:
        return {name: kwargs[name] for name in transformers_names.NO_INPUTS if name in kwargs} | changed
    off = dict.fromkeys(name for name in transformers_names.CACHE if name in kwargs)
    if kwargs.get("inputs_embeds") is not None:
        changed |= {"input_ids": None, "inputs_embeds": _embedded(prompt, kwargs["inputs_embeds"], decoder)}
    changed |= dict.fromkeys({"labels"} & kwargs.keys())  # they are the main stream's alone
    return {**kwargs, **off, **changed}


def _embedded(prompt: OtherPrompt, main: Tensor, decoder: Decoder) -> Tensor:
    """(rows, length, width): embeddings that hold the pictures already, with those of the text put in."""
    source = prompt.source.to(main.device)
    kept = main.gather(1, source.clamp(min=0)[..., None].expand(-1, -1, main.shape[-1]))
    new: Tensor = transformers_names.found(decoder.runner, "get_input_embeddings")()(prompt.ids.to(main.device))
    return kept.where((source >= 0)[..., None], new.to(main.dtype))
