"""What prompts begin with, up to their reference pictures: read once for each, kept for all rows and requests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from grounddecode.engines.hf import transformers_names
from grounddecode.images.layout import ImageLayout

if TYPE_CHECKING:
    from grounddecode.engines.hf.generation import Sequence as Sequences
    from grounddecode.engines.hf.stream.prefix import Taken

_ROOM = 2**30  # bytes that are kept at most
_ADAPTERS = ("_active_adapter", "_disable_adapters")  # attributes of PEFT's layers


@dataclass(frozen=True)
class Heads:
    """The first `length` columns of all prompts, of which each row's begin at its start; keys tell them from others."""

    length: int
    starts: tuple[int, ...]
    keys: tuple[Hashable, ...]


def heads_of(
    sequence: Sequences, shown: Sequence[Hashable], positions: Any, weights: Hashable, config: Any
) -> Heads | None:
    """What rows begin with, where all end their pictures within so many columns that none has one behind them.

    Args:
        shown: what each row's reference is, in which shape.  positions: (..., rows, prompt), or None: columns count.
        weights: `weights_of` the model.
    """
    framed = ImageLayout.framed(sequence.ids, config)
    columns = torch.arange(1, sequence.prompt_length + 1, device=framed.device)
    length = min(int(torch.where(framed, columns, 0).amax(dim=1).min()), sequence.prompt_length - 1)
    if not sequence.all_see or bool(sequence.image[:, length:].any()):
        return None
    starts = sequence.there.int().argmax(dim=1).tolist()
    keys = []
    for row, start in enumerate(starts):
        ids = tuple(sequence.ids[row, start:length].tolist())
        here = start if not isinstance(positions, Tensor) else tuple(_places(positions, row, start, length))
        keys.append((shown[row], ids, here, weights))
    return Heads(length, tuple(starts), tuple(keys))


def _places(positions: Tensor, row: int, start: int, length: int) -> list[int]:
    of_row = positions[..., min(row, positions.shape[-2] - 1), start:length]
    return [int(place) for place in of_row.flatten().tolist()]


def weights_of(model: nn.Module) -> Hashable:
    """What changes when somebody trains the model, loads other weights, switches an adapter, or another precision."""
    found: list[Hashable] = []
    kinds = set()
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            found.append((0 if weight.is_inference() else weight._version, weight.data_ptr()))
            kinds.add(weight.device.type)
        found += [str(vars(module)[name]) for name in _ADAPTERS if name in vars(module)]
    for kind in sorted(kinds - {"meta"}):
        found.append(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None)
    return hash(tuple(found))


class Shelf:
    """Keys and values by what they are of; of more than there is room for, those go that were asked for first."""

    def __init__(self, room: int = _ROOM) -> None:
        self._room = room
        self._kept: OrderedDict[Hashable, Taken] = OrderedDict()
        self._weights: Hashable = None

    def weights(self, model: nn.Module, number: int) -> Hashable:
        """`weights_of` the model, looked at once a prompt: for the first of its streams."""
        self._weights = weights_of(model) if number == 0 else self._weights
        return self._weights

    def found(self, heads: Heads) -> Taken | None:
        """(rows, heads, length, size) of every layer, 0 before the start of a row; None where one is missing."""
        if any(key not in self._kept for key in heads.keys):
            return None
        for key in heads.keys:
            self._kept.move_to_end(key)
        rows = [self._kept[key] for key in heads.keys]
        return [
            (_stacked([row[layer][0] for row in rows], heads), _stacked([row[layer][1] for row in rows], heads))
            for layer in range(len(rows[0]))
        ]

    def keep(self, heads: Heads, cache: Any) -> None:
        """What `cache` holds of the heads that are not here."""
        for row, (key, start) in enumerate(zip(heads.keys, heads.starts, strict=True)):
            if key not in self._kept:
                layers = transformers_names.cache_layers(cache)
                columns = slice(start, heads.length)
                self._kept[key] = [(x.keys[row, :, columns].clone(), x.values[row, :, columns].clone()) for x in layers]
        while self._kept and sum(map(_bytes, self._kept.values())) > self._room:
            self._kept.popitem(last=False)


def _stacked(parts: list[Tensor], heads: Heads) -> Tensor:
    if not any(heads.starts):  # what rows have in common is not copied for them
        common = all(part is parts[0] for part in parts)
        return parts[0].expand(len(parts), -1, -1, -1) if common else torch.stack(parts)
    return torch.stack(
        [nn.functional.pad(part, (0, 0, start, 0)) for part, start in zip(parts, heads.starts, strict=True)]
    )


def _bytes(states: Taken) -> int:
    return sum(x.nbytes for pair in states for x in pair)
