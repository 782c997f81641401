"""The prompt of a generation as the engine reads it: where its images are, and what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.generation import Sequence as Sequences
from grounddecode.images.layout import image_mask

if TYPE_CHECKING:
    from grounddecode.engines.hf.decoder import Decoder
    from grounddecode.method import Method


def read_prompt(
    prompt: Tensor, rows: int, mask: Any, kwargs: Mapping[str, Any], decoder: Decoder, methods: Sequence[Method]
) -> Sequences:
    """What is known of the sequences that begin with `prompt` (prompts, tokens), of which `rows` are generated.

    Args:
        mask: the padding mask of the whole prompt, if there is one.  kwargs: arguments of the first forward.

    Raises:
        ValueError: a prompt that no method can read, in one sentence.
    """
    image = image_mask(prompt, decoder.image_token_id)
    names = ", ".join(method.name for method in methods)
    if transformers_names.brings_video(kwargs) or _holds(prompt, decoder.video_token_id):
        raise ValueError(f"{names}: the prompt holds a video, which no method reads, give pictures of its frames")
    if transformers_names.brings_pixels(kwargs) and not bool(image.any()):
        raise ValueError(f"{names}: no image token in the prompt, build it with the processor and pass its images")
    if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask[:, prompt.shape[1] - 1 :].all()):
        raise ValueError("the batch is padded on the right, set processor.tokenizer.padding_side = 'left'")
    padded = isinstance(mask, Tensor) and mask.dim() == 2
    there = mask[:, : prompt.shape[1]].bool() if padded else torch.ones_like(image)
    copies = rows // prompt.shape[0]
    image, ids = (x.repeat_interleave(copies, dim=0) for x in (image, prompt))
    return Sequences(prompt.shape[1], image, ids, there.repeat_interleave(rows // there.shape[0], dim=0))


def _holds(prompt: Tensor, token: int | None) -> bool:
    return token is not None and bool((prompt == token).any())


def require_images(sequence: Sequences, length: int, kwargs: Mapping[str, Any], first: bool) -> None:
    """Raise where the first `length` tokens of a prompt are read without the images that belong to it.

    `first`: nothing of the prompt was read before.
    """
    whole = length >= sequence.prompt_length
    if whole or sequence.is_plain or transformers_names.brings_images(kwargs):
        return
    if first:
        raise ValueError(
            "this version of transformers drops the images of a prompt read in chunks, unset prefill_chunk_size"
        )
    raise ValueError(
        f"the cache holds nothing of the {sequence.prompt_length} tokens that were read, so none of them is seen any "
        "more (gradient checkpointing in training mode does that), call model.eval()"
    )


def refuse_later_images(
    sequence: Sequences, past: int, length: int, ids: Tensor | None, image_token: int | None, kwargs: Mapping[str, Any]
) -> None:
    """Raise where a further forward by hand changes where the images are, which its first one has said.

    past, length: tokens that are cached, and that this forward reads.  ids: of the latter.
    """
    if past < sequence.prompt_length and bool(sequence.image[:, past:].any()):
        raise ValueError(
            f"the cache was cropped to {past} tokens, before the end of the pictures of its prompt, start from the "
            "whole prompt"
        )
    pixels = transformers_names.brings_pixels(kwargs)
    if length == 1 and not pixels:
        return
    if ids is None:
        raise ValueError("only inputs_embeds were given, pass input_ids too: image positions are read from them")
    if (pixels and sequence.is_plain) or bool(image_mask(ids, image_token).any()):
        raise ValueError(
            f"a picture was given behind {past} tokens that were read before, where no method sees it, start from the "
            "whole prompt with all its pictures"
        )


def refuse_checkpointing(decoder: Decoder, methods: Sequence[Method]) -> None:
    """Raise where layers are computed a second time in the backward pass, when no method acts any more."""
    if torch.is_grad_enabled() and any(transformers_names.checkpoints(block) for block in decoder.blocks):
        names = ", ".join(method.name for method in methods)
        raise ValueError(
            f"{names}: gradient checkpointing computes layers again when methods act no more, call "
            "model.gradient_checkpointing_disable() or model.eval()"
        )
