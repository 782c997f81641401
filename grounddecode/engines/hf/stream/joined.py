"""One batch and one cache for the rows of all streams: arguments repeated, caches joined and parted again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names

_AHEAD = 64  # tokens to come that a joined cache has room for when it is laid out


def repeated(kwargs: dict[str, Any], rows: int, streams: int) -> dict[str, Any]:
    """The arguments of a decode step for the rows of all streams, which read the same token."""
    fixed = transformers_names.NOT_ROWS
    return {name: value if name in fixed else _repeated(name, value, rows, streams) for name, value in kwargs.items()}


def _repeated(name: str, value: Any, rows: int, streams: int) -> Any:
    """A row-aligned input for all streams; anything else as it is."""
    if isinstance(value, dict):
        return {key: _repeated(key, entry, rows, streams) for key, entry in value.items()}
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    if name == transformers_names.POSITIONS and value.dim() == 3:  # multimodal rotary positions: (3 or 4, rows, tokens)
        return value.repeat(1, streams, 1)
    return torch.cat([value] * streams) if value.shape[0] == rows else value


def main_rows(output: Any, rows: int, columns: int | None) -> Any:
    """The output of the batch of all streams with the main rows only. `columns`: how many keys these have, if fewer."""
    output.logits = output.logits[:rows]
    for name in transformers_names.ROW_OUTPUTS:
        value = getattr(output, name, None)
        if value is not None:
            setattr(output, name, tuple(entry[:rows] for entry in value))
    if columns is not None and getattr(output, transformers_names.WEIGHTS, None) is not None:
        output.attentions = tuple(entry[..., -columns:] for entry in output.attentions)
    return output


# -- caches ----------------------------------------------------------------------------------------------------------
def into_cache(given: dict[str, Any], kwargs: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """Arguments `given` of a forward that shall read into `cache`, under the name and as in the forward of `kwargs`."""
    names = {name: cache for name in transformers_names.CACHE if kwargs.get(name) is not None}
    asked = {"use_cache": kwargs["use_cache"]} if "use_cache" in kwargs else {}
    return {name: value for name, value in given.items() if name != "use_cache"} | names | asked


def grows(cache: Any) -> bool:
    """Whether a cache takes as many tokens as come."""
    return not any(hasattr(layer, transformers_names.ROOM) for layer in transformers_names.cache_layers(cache))


def require_plain(cache: Any, method: str) -> None:
    """Raise ValueError for a cache that keeps keys in another form or place than those of rows to be joined."""
    layers, names = transformers_names.cache_layers(cache), transformers_names.QUANTISED
    quantised = any(hasattr(layer, name) for layer in layers for name in names)
    if quantised or getattr(cache, transformers_names.OFFLOADING, False):
        raise ValueError(
            f"{method}: the cache is {'quantised' if quantised else 'offloaded'}, which has no place for the rows of a "
            "second stream, use a dynamic or a static one"
        )


def join(cache: Any, others: Sequence[Any], rows: int) -> None:
    """Move the rows of other caches behind those of every layer of `cache`, right-aligned where lengths differ."""
    layers = transformers_names.cache_layers
    for mine, *theirs in zip(layers(cache), *(layers(other) for other in others), strict=True):
        found = [_row_tensors(layer, rows) for layer in theirs]
        for (holder, key), *parts in zip(_row_tensors(mine, rows), *found, strict=True):
            holder[key] = _stacked([holder[key], *(other.pop(name) for other, name in parts)])
        for other in theirs:
            _count_as(mine, other)
        _set_room(mine, rows * (1 + len(theirs)))
        if type(mine).__name__ == transformers_names.USUAL_LAYER and "update" not in vars(mine):
            mine.update = Growing(mine)


def part(cache: Any, rows: int, all_rows: int, further: int) -> None:
    """Keep the first `rows` of the rows of a joined cache, less the columns that others had before theirs."""
    for layer in transformers_names.cache_layers(cache):
        _part(layer, rows, all_rows, further)


def parted(cache: Any, rows: int, all_rows: int, further: int) -> list[Any]:
    """Layers as `part` would leave them; the joined cache keeps its own."""
    layers = [copy.copy(layer) for layer in transformers_names.cache_layers(cache)]
    for layer in layers:
        vars(layer).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        _part(layer, rows, all_rows, further)
    return layers


def _part(layer: Any, rows: int, all_rows: int, further: int) -> None:
    vars(layer).pop("update", None)
    for holder, key in _row_tensors(layer, all_rows):
        holder[key] = holder[key][:rows]
    if further:
        _drop(layer, further)
    _set_room(layer, rows)


@dataclass
class Growing:
    """What stands in the place of a cache layer's `update` while it holds the rows of several streams.

    A new token is written behind the others, where the layer itself would copy all of them, of every stream, at every
    step. Not on other devices, whose kernels want keys in one piece, nor where a backward pass may need what stood
    there. Keys that somebody else has put in the layer (beams that change places) are laid out anew.
    """

    layer: Any
    _rooms: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # with room behind, and the part in use

    def __call__(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if keys.device.type != "cpu" or torch.is_grad_enabled():
            self._rooms.clear()
            updated: tuple[Tensor, Tensor] = type(self.layer).update(self.layer, keys, values, *args, **kwargs)
            return updated
        self.layer.keys, self.layer.values = self._with("keys", keys), self._with("values", values)
        return self.layer.keys, self.layer.values

    def _with(self, name: str, new: Tensor) -> Tensor:
        known: Tensor = getattr(self.layer, name)
        length, total = known.shape[2], known.shape[2] + new.shape[2]
        room, used = self._rooms.get(name, (known, None))
        outlived = room.is_inference() and not torch.is_inference_mode_enabled()
        if used is not known or outlived or total > room.shape[2]:
            room = known.new_empty(*known.shape[:2], total + _AHEAD, known.shape[3])
            room[:, :, :length] = known
        room[:, :, length:total] = new
        self._rooms[name] = room, room[:, :, :total]
        return self._rooms[name][1]


def _row_tensors(layer: Any, rows: int) -> list[tuple[dict[Any, Any], Any]]:
    """Where a cache layer keeps tensors of its rows: attributes, or states that recurrent layers keep by number."""
    holders = [vars(layer), *(value for value in vars(layer).values() if isinstance(value, dict))]
    return [
        (holder, key)
        for holder in holders
        for key, value in holder.items()
        if isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == rows
    ]


def _stacked(parts: list[Tensor]) -> Tensor:
    """Keys or values (rows, heads, tokens, size) below each other, padded where there are fewer tokens."""
    most = max(part.shape[-2] for part in parts)
    if any(part.shape[-2] != most for part in parts):
        parts = [nn.functional.pad(part, (0, 0, most - part.shape[-2], 0)) for part in parts]
    return torch.cat(parts)


def _count_as(mine: Any, theirs: Any) -> None:
    """A layer with a window counts the tokens it saw: those of the longer stream."""
    count = transformers_names.TOKENS_SEEN
    if isinstance(getattr(theirs, count, None), int):
        setattr(mine, count, max(getattr(mine, count), getattr(theirs, count)))


def _drop(layer: Any, further: int) -> None:
    """Leave out the oldest columns of a layer, as many as it has of them; recurrent layers have none."""
    count, keys = transformers_names.TOKENS_SEEN, getattr(layer, "keys", None)
    seen = getattr(layer, count, None)
    gone = further
    if isinstance(seen, int):
        setattr(layer, count, seen - further)
        gone = max(0, 0 if keys is None else keys.shape[-2] - (seen - further))
    for name in ("keys", "values") if keys is not None else ():
        setattr(layer, name, getattr(layer, name)[..., gone:, :])


def _set_room(layer: Any, rows: int) -> None:
    if hasattr(layer, transformers_names.CACHE_ROWS):
        setattr(layer, transformers_names.CACHE_ROWS, rows)
