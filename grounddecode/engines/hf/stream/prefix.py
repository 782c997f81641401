"""What a further prompt has in common with one that was read: its keys and values are taken, not computed again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names

if TYPE_CHECKING:
    from grounddecode.engines.hf.stream.prompts import OtherPrompt
    from grounddecode.engines.hf.stream.same_inputs import Memo

Taken = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (rows, heads, columns, size)


def common_length(prompt: OtherPrompt, there: Tensor, changed: Tensor) -> int:
    """How many of the first columns of `prompt` hold, in every row, what the main prompt begins with, or padding.

    Where a token and all before it are the main prompt's, so are its keys and values in a model that reads from left
    to right. The newest token is never among them.

    Args:
        there, changed: (rows, prompt) bool, of the main prompt: no padding; tokens that read something else here.
    """
    of_main = prompt.of(torch.where(there, there.cumsum(dim=-1), 0), -1)
    same = (of_main == prompt.there.cumsum(dim=-1)) & ~prompt.of(changed.cumsum(dim=-1) > 0, True)
    shared = (same | ~prompt.there).all(dim=0)
    return min(int(shared.cumprod(dim=0).sum()), prompt.length - 1)  # a host read for a prompt


def shareable(cache: Any, text: Any) -> bool:
    """Whether all layers of a cache hold the keys and values of every token of every row, made from left to right.

    `text`: the configuration of the decoder.
    """
    if getattr(text, transformers_names.BOTH_WAYS, False):
        return False
    layers = transformers_names.cache_layers(cache)
    usual = all(type(layer).__name__ == transformers_names.USUAL_LAYER and layer.is_initialized for layer in layers)
    return bool(layers) and usual and not getattr(cache, transformers_names.OFFLOADING, False)


def taken(cache: Any, source: Tensor) -> Taken:
    """Columns `source` (rows, columns) of a cache; -1 is padding, of which nothing is seen."""
    return [(_picked(x.keys, source), _picked(x.values, source)) for x in transformers_names.cache_layers(cache)]


def _picked(states: Tensor, source: Tensor) -> Tensor:
    index = source.to(states.device).clamp(min=0)[:, None, :, None]
    return states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))


def put(states: Taken, cache: Any) -> None:
    """Into an empty cache, whose layers copy what they have when they are given more."""
    for number, (keys, values) in enumerate(states):
        cache.update(keys[:, :, :0], values[:, :, :0], number)  # it makes its layers as they come
        layer = transformers_names.cache_layers(cache)[number]
        layer.keys, layer.values = keys, values


def rest(kwargs: dict[str, Any], length: int) -> dict[str, Any]:
    """Arguments of a forward over a prompt whose first `length` columns are in the cache already.

    Labels stay behind: they are the main stream's alone.
    """
    aligned = ("input_ids", transformers_names.POSITIONS, *transformers_names.TOKEN_TYPES)
    cut = {name: kwargs[name][..., length:] for name in aligned if isinstance(kwargs.get(name), Tensor)}
    if kwargs.get("inputs_embeds") is not None:
        cut["inputs_embeds"] = kwargs["inputs_embeds"][:, length:]
    return {name: value for name, value in kwargs.items() if name not in (transformers_names.COLUMNS, "labels")} | cut


def stays(source: Tensor, memo: Memo, given: Mapping[str, Any]) -> bool:
    """Whether columns `source` (rows, columns) of the main prompt, noted in `memo`, stand at the same places here.

    `given`: arguments of a forward over this prompt; where there are no positions, layers count columns.
    """
    if sees_ahead(memo.mask, int(source.max()) + 1) or _blocks_behind(source.shape[1], memo.mask, given):
        return False
    positions = given.get(transformers_names.POSITIONS)
    there = source >= 0
    if not isinstance(memo.positions, Tensor) or not isinstance(positions, Tensor):
        moved = there & (source != torch.arange(source.shape[1], device=source.device))
        return memo.positions is None and positions is None and not bool(moved.any())  # else the model counts anew
    main = memo.positions.expand(*memo.positions.shape[:-2], *source.shape[:1], memo.positions.shape[-1])
    index = source.clamp(min=0).to(main.device).expand(*main.shape[:-1], source.shape[1])
    same = main.gather(-1, index) == positions[..., : source.shape[1]].to(main.device)
    return bool((same | ~there.to(main.device)).all())


def _blocks_behind(length: int, mask: Any, given: Mapping[str, Any]) -> bool:
    """Whether `mask` is made of the types of tokens, and such are behind the first `length` columns.

    It reads types by columns of the whole prompt, as which a model would take those of the rest (Gemma 3).
    """
    if not isinstance(mask, dict) and not (isinstance(mask, Tensor) and mask.dim() == 4):
        return False
    types = (given.get(name) for name in transformers_names.TOKEN_TYPES)
    return any(isinstance(kinds, Tensor) and bool(kinds[..., length:].any()) for kinds in types)


def sees_ahead(mask: Any, length: int) -> bool:
    """Whether one of the first `length` queries of a mask, or of one for each kind of layer, sees a key behind them."""
    if isinstance(mask, dict):
        return any(sees_ahead(entry, length) for entry in mask.values())
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return False
    ahead = mask[:, :, :length, length:]
    return bool((ahead if mask.dtype == torch.bool else ahead > torch.finfo(mask.dtype).min / 2).any())


def text_only(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a forward over text alone: less the pictures, which were read before."""
    inputs = ("input_ids", "inputs_embeds", "attention_mask", transformers_names.POSITIONS, "use_cache")
    names = (*inputs, *transformers_names.NO_INPUTS, *transformers_names.TOKEN_TYPES, *transformers_names.CACHE)
    return {name: kwargs[name] for name in names if name in kwargs}
