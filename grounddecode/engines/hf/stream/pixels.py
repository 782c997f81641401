"""Other pictures for the second stream: pixel values through a method, and through the vision tower once more."""

from __future__ import annotations

import bisect
import itertools
import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.engines.hf import transformers_names
from grounddecode.images.layout import ImageLayout, image_mask, image_token_id
from grounddecode.view import Pictures, StepView

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method


# Inputs that hold no more of a picture than how it lies.
_KNOWN = (
    *("input_ids", "attention_mask", transformers_names.GRIDS, transformers_names.POSITIONS),
    *(transformers_names.COLUMNS, *transformers_names.TOKEN_TYPES),
)
Edit = Callable[[Tensor, StepView], Tensor]  # entries of pixel values (N, ...) and the view to others of that shape


def with_other_pictures(
    kwargs: dict[str, Any], edit: Edit, method: Method, binding: Binding, step: Step
) -> dict[str, Any]:
    """Arguments of a prompt's forward with the pictures that `edit` makes of them, for `method`.

    Raises:
        ValueError: there are no pixels to edit.
    """
    encoded = kwargs.get(transformers_names.ENCODED)
    if not encoded:
        return kwargs | _edited(kwargs, edit, method, binding, step, step.sequence.ids)
    run = binding.run
    if run is None or run.encoding is None:
        raise _nothing(method)
    ids = step.sequence.ids[:: run.copies]
    return kwargs | encoded_anew(binding, _edited(run.encoding.given, edit, method, binding, step, ids), method)


def shown(kwargs: dict[str, Any], binding: Binding, step: Step) -> tuple[Pictures, list[tuple[Any, ...]]] | None:
    """What pictures belong to which prompt; and of each row its prompt, and the shapes of the pictures that has.

    None where that cannot be told: inputs of other names may hold more of a picture than its pixels.
    """
    run, encoded = binding.run, kwargs.get(transformers_names.ENCODED)
    given = kwargs if not encoded or run is None or run.encoding is None else run.encoding.given
    copies = 1 if given is kwargs or run is None else run.copies
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    pixels = {name: value for name, value in tensors.items() if transformers_names.is_pixels(name, value)}
    if len(pixels) != 1 or not tensors.keys() <= {*pixels, *_KNOWN}:
        return None
    ids = step.sequence.ids[::copies]
    (values,) = pixels.values()
    pictures = _pictures(values, given | {"input_ids": ids}, binding.model.config)
    grids = None if pictures.grids is None else pictures.grids.tolist()
    if pictures.rows is None or values.dim() not in (2, 4):
        return None
    shapes: list[list[Hashable]] = [[] for _ in ids]
    for at, row in enumerate(pictures.rows):
        if row >= 0:
            shapes[row].append(tuple(grids[at]) if grids else tuple(values.shape[1:]))
    return pictures, [(row, *own) for row, own in enumerate(shapes) for _ in range(copies)]


def encoded_anew(binding: Binding, changes: dict[str, Any], method: Method) -> dict[str, Any]:
    """The encoded images of the whole prompts, once more, from pixels that are changed or not.

    Raises:
        ValueError: the images were not encoded before the decoding loop.
    """
    run = binding.run
    if run is None or run.encoding is None or run.prompt is None:
        raise ValueError(f"{method.name}: pictures cannot be read in chunks, unset prefill_chunk_size")
    images = run.encoding.encode(run.encoding.given | changes | {transformers_names.ENCODED: {}})
    new, ids = images[transformers_names.ENCODED], run.prompt[:: run.copies]
    return {transformers_names.ENCODED: transformers_names.expanded(binding.model, new, ids, run.copies)}


def _edited(
    given: dict[str, Any], edit: Edit, method: Method, binding: Binding, step: Step, ids: Tensor
) -> dict[str, Tensor]:
    pixels = {name: value for name, value in given.items() if transformers_names.is_pixels(name, value)}
    if not pixels:
        raise _nothing(method)
    config, view, given = binding.model.config, step.last_view(ids.device), given | {"input_ids": ids}
    return {name: _other(value, edit, method, view, _pictures(value, given, config)) for name, value in pixels.items()}


def _other(pixels: Tensor, edit: Edit, method: Method, view: StepView, pictures: Pictures) -> Tensor:
    entries = _entries(pixels)
    edited = edit(entries, view.with_(pictures=pictures)).to(pixels.dtype)
    if edited.shape != entries.shape:
        raise ValueError(
            f"{method.name}: pixel values of shape {tuple(edited.shape)} were made of {tuple(entries.shape)}, keep it"
        )
    if entries.dim() > 2:  # where a row has fewer pictures, or a picture fewer tiles, models know that by zeros
        edited = edited.where(_there(entries).view(-1, *[1] * (entries.dim() - 1)), entries)
    return edited.view(pixels.shape)


def _entries(pixels: Tensor) -> Tensor:
    """(pictures, tiles, channels, height, width) as (N, channels, height, width)."""
    return pixels.flatten(0, -4) if pixels.dim() > 4 else pixels


def _there(entries: Tensor) -> Tensor:
    return (entries != 0).flatten(1).any(dim=1)


def _pictures(pixels: Tensor, given: dict[str, Any], config: Any) -> Pictures:
    """Patches lie behind each other where there are grids that say how many; elsewhere an entry is a picture."""
    entries, grids = _entries(pixels), given.get(transformers_names.GRIDS)
    counts = [1] * len(entries) if grids is None else grids.prod(dim=-1).tolist()
    values = entries.detach().cpu().bfloat16().contiguous().view(torch.int16)  # the same seeds in any precision
    seeds = tuple(zlib.crc32(part.numpy().tobytes()) for part in torch.split(values, counts))
    of_entry = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    weights = [n * bool(there) for n, there in zip(counts, _there(entries), strict=True)] if grids is None else counts
    image = image_mask(given["input_ids"], image_token_id(config))
    rows = _rows_by_share(weights, image.sum(dim=-1).tolist())
    if rows is None:
        rows = _rows_by_layout(len(pixels), len(counts), given, config)
    frames = 1 if grids is None else int(getattr(config.vision_config, "temporal_patch_size", 1))
    return Pictures(of_entry=of_entry.to(pixels.device), seeds=seeds, rows=rows, grids=grids, frames=frames)


def _rows_by_share(weights: Sequence[int], tokens: Sequence[int]) -> tuple[int, ...] | None:
    """The row of each picture, where each has as many image tokens as its weight; None where that does not add up."""
    share, rest = divmod(sum(tokens), max(1, sum(weights)))
    if rest:
        per, rest = divmod(sum(weights), max(1, sum(tokens)))  # several patches a token
        weights, share = [w // max(1, per) for w in weights], 1
    ends = list(itertools.accumulate(tokens))
    starts = [start * share for start in itertools.accumulate([0, *weights])]
    if rest or starts[-1] != ends[-1] or not set(ends) <= set(starts):
        return None
    return tuple(bisect.bisect_right(ends, start) if w else -1 for start, w in zip(starts, weights, strict=False))


def _rows_by_layout(pictures: int, entries: int, given: dict[str, Any], config: Any) -> tuple[int, ...] | None:
    """The same from where the tokens of each picture lie, of which each has as many entries (tiles)."""
    spans = ImageLayout.of(given, config).spans
    if len(spans) != pictures or entries % pictures:
        return None
    return tuple(span.row for span in spans for _ in range(entries // pictures))


def _nothing(method: Method) -> ValueError:
    return ValueError(f"{method.name}: there are no pixel values to edit, pass pixel_values instead of encoded images")
