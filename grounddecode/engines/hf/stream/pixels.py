"""Other pictures for the second stream: pixel values through a method, and through the vision tower once more."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.view import Pictures

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method


def with_other_pictures(kwargs: dict[str, Any], method: Method, binding: Binding, step: Step) -> dict[str, Any]:
    """Arguments of a prompt's forward with the pictures that `method` makes of them.

    Raises:
        ValueError: there are no pixels to edit.
    """
    encoded = kwargs.get(transformers_names.ENCODED)
    if not encoded:
        return kwargs | _edited(kwargs, method, step)
    run = binding.run
    if run is None or run.encoding is None or run.prompt is None:
        raise _nothing(method)
    given = run.encoding.given
    images = run.encoding.encode(given | _edited(given, method, step) | {transformers_names.ENCODED: {}})
    new, ids = images[transformers_names.ENCODED], run.prompt[:: run.copies]
    return kwargs | {transformers_names.ENCODED: transformers_names.expanded(binding.model, new, ids, run.copies)}


def _edited(given: dict[str, Any], method: Method, step: Step) -> dict[str, Tensor]:
    pixels = {name: value for name, value in given.items() if transformers_names.is_pixels(name, value)}
    if not pixels:
        raise _nothing(method)
    return {name: _other(value, given, method, step) for name, value in pixels.items()}


def _other(pixels: Tensor, given: dict[str, Any], method: Method, step: Step) -> Tensor:
    entries = pixels.flatten(0, -4) if pixels.dim() > 4 else pixels  # (pictures, tiles, channels, height, width)
    view = step.last_view(pixels.device).with_(pictures=_pictures(entries, given.get(transformers_names.GRIDS)))
    edited = method.edit_pixels(entries, view).to(pixels.dtype)
    if edited.shape != entries.shape:
        raise ValueError(
            f"{method.name}: pixel values of shape {tuple(edited.shape)} were made of {tuple(entries.shape)}, keep it"
        )
    if entries.dim() > 2:  # where a row has fewer pictures, or a picture fewer tiles, models know that by zeros
        there = (entries != 0).flatten(1).any(dim=1)
        edited = edited.where(there.view(-1, *[1] * (entries.dim() - 1)), entries)
    return edited.view(pixels.shape)


def _pictures(pixels: Tensor, grids: Tensor | None) -> Pictures:
    """Patches lie behind each other where there are grids that say how many; elsewhere an entry is a picture."""
    counts = [1] * len(pixels) if grids is None else grids.prod(dim=-1).tolist()
    values = pixels.detach().to(torch.bfloat16).float().cpu()  # a picture is the same in every dtype
    parts = torch.split(values, counts)
    seeds = tuple(zlib.crc32(part.contiguous().numpy().tobytes()) for part in parts)
    of_entry = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Pictures(of_entry=of_entry.to(pixels.device), seeds=seeds)


def _nothing(method: Method) -> ValueError:
    return ValueError(f"{method.name}: there are no pixel values to edit, pass pixel_values instead of encoded images")
