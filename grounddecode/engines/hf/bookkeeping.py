"""Bookkeeping of one forward pass: which sequence it belongs to, which rows, how much is cached, what the prompt is."""

from __future__ import annotations

from collections.abc import Sequence as Methods
from typing import TYPE_CHECKING, Any

from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.attach.following import follow
from grounddecode.engines.hf.generation import Sequence
from grounddecode.engines.hf.prompt import read_prompt, refuse_checkpointing, refuse_later_images, require_images
from grounddecode.engines.hf.step import Step

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.running import Run
    from grounddecode.engines.hf.decoder import Decoder
    from grounddecode.method import Method


def begin(
    decoder: Decoder,
    methods: Methods[Method],
    run: Run,
    kwargs: dict[str, Any],
    outer_ids: Tensor | None,
    remembers: bool,
) -> Step:
    """The step that a forward with these arguments is.

    Args:
        outer_ids: ids of the model around a language model.  remembers: something is kept of the rows of a sequence.
    """
    refuse_checkpointing(decoder, methods)
    ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    given = ids if ids is not None else embeds
    if given is None:
        raise ValueError("forward was called without input_ids, pass them")
    rows, length = given.shape[0], given.shape[1]
    cache = transformers_names.given_cache(kwargs)
    past = 0 if cache is None else transformers_names.cached_tokens(cache)
    known = ids if ids is not None else outer_ids
    sequence = run.sequence_of(cache)
    if sequence is not None and past:
        past -= sequence.further  # columns of the cache that are no tokens of these rows
    if past == 0 or sequence is None:
        first = sequence is None
        _refuse_unread(past, run, remembers)
        sequence = _new_sequence(decoder, methods, run, known, rows, kwargs)
        if past == 0:
            require_images(sequence, length, kwargs, first)
        if remembers and cache is not None:
            follow(cache, sequence, run.sequences.get(cache))
    elif past > sequence.read:
        raise ValueError(
            f"the cache holds {past - sequence.read} tokens that were not read here, read them in this block"
        )
    elif run.by_hand:  # a `generate` call knows all of its prompt from the start
        refuse_later_images(sequence, past, length, known, decoder.image_token_id, kwargs)
    run.keep(sequence, cache)
    sequence.read = past + length
    return Step(sequence, decoder.n_layers, past, length, decoder.implementation)


def _refuse_unread(past: int, run: Run, remembers: bool) -> None:
    if past and run.by_hand:
        raise ValueError(f"the cache already holds {past} tokens that were not read here, start from the whole prompt")
    if past and remembers:
        raise ValueError(
            f"generate was given a cache of {past} tokens, from which these methods cannot go on, start from the whole "
            "prompt, all turns with their pictures, and leave the cache out"
        )


def _new_sequence(
    decoder: Decoder, methods: Methods[Method], run: Run, ids: Tensor | None, rows: int, kwargs: dict[str, Any]
) -> Sequence:
    prompt = run.prompt if run.prompt is not None else ids
    if prompt is None:
        raise ValueError("only inputs_embeds were given, pass input_ids too: image positions are read from them")
    given = kwargs.get("attention_mask")
    mask = run.padding if run.padding is not None else given  # the forward may get a part, or one a layer kind
    return read_prompt(prompt, rows, mask, kwargs, decoder, methods)


def check_layers(decoder: Decoder, expected: frozenset[int], step: Step) -> None:
    """Every expected layer must have come through the interface; a fused or remote implementation does not."""
    missing = expected - step.seen
    if missing:
        raise RuntimeError(
            f"layers {sorted(missing)} of {type(decoder.model).__name__} did not use transformers' attention interface "
            f"({decoder.implementation}), load it with attn_implementation='sdpa' and no fused modules"
        )
