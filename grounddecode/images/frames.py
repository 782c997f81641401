"""Frames: the tokens around and between those of an image that stand for nothing but the image itself.

Begin and end markers, ends of rows, names and separators of tiles. They say where an image is; a prompt without its
images has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grounddecode.images.tiles import Runs, runs_of

if TYPE_CHECKING:
    from torch import Tensor

# Under these names configurations keep the ids of markers, behind `_token_id`, `_token_index` or `_token_ids`.
_NAMED = ("vision_start", "vision_end", "image_start", "image_end", "boi", "eoi", "image_break", "visual_indicator")
_ENDS = ("vision_end", "image_end", "eoi")
_SUFFIXES = ("_token_id", "_token_index", "_token_ids")
_ORDINARY = ("bos_token_id", "eos_token_id", "pad_token_id")
_REACH = 3  # a marker of a single image stands at most this far from its tokens: `<|image_start|><|image|>` and tokens
_NEAR = 2  # ids of markers that no configuration names were given out together with that of image tokens


def framed(ids: Tensor, image: Tensor, config: Any) -> Tensor:
    """Bool (rows, tokens): image tokens and their frames, everything that goes when the pictures of a prompt go.

    Which tokens are frames follows from the ids that a configuration names, else from how its family writes images:
    one end behind each row (Pixtral, Mistral 3), a begin and an end (InternVL), a mark and the name of a tile
    (Idefics3, SmolVLM); elsewhere a neighbour is one whose id is next to that of image tokens and is no ordinary
    special token.

    Args:
        ids: (rows, tokens) long.  image: bool, of the same shape, the image tokens.  config: of the whole model.
    """
    marked = image.clone()
    for row, one in enumerate(ids.tolist()):
        runs = runs_of(image[row].nonzero()[:, 0].tolist())
        places = _frames(one, runs, config) if runs else []
        if places:
            marked[row, places] = True
    return marked


def _frames(ids: Sequence[int], runs: Runs, config: Any) -> list[int]:
    """Positions of the frames of one row's images; `runs` are those of its image tokens."""
    named = _ids(config, _NAMED)
    if named:
        return _named(ids, runs, named, _ids(config, _ENDS))
    if getattr(getattr(config, "vision_config", None), "model_type", None) == "pixtral":
        return [run[-1] + 1 for run in runs if run[-1] + 1 < len(ids)]
    if hasattr(config, "downsample_ratio") and hasattr(config, "image_seq_length"):
        return [at for run in runs for at in (run[0] - 1, run[-1] + 1) if 0 <= at < len(ids)]
    if hasattr(config, "scale_factor"):
        return _tagged(ids, runs)
    return _near(ids, runs, config)


def _ids(config: Any, names: Sequence[str]) -> frozenset[int]:
    """The ids that a configuration keeps under some names."""
    found: set[int] = set()
    for name in (name + suffix for name in names for suffix in _SUFFIXES):
        value = getattr(config, name, None)
        if value is not None:
            found.update(value if isinstance(value, list | tuple) else [int(value)])
    return frozenset(found)


def _named(ids: Sequence[int], runs: Runs, named: frozenset[int], ends: frozenset[int]) -> list[int]:
    """Named markers next to image tokens with what lies between them, and gaps that no end interrupts (Llama 4)."""
    places: list[int] = []
    for number, run in enumerate(runs):
        before = runs[number - 1][-1] if number else -1
        gap = range(before + 1, run[0])
        if number and ends and not any(ids[at] in ends for at in gap) and len(gap) <= _REACH:
            places += gap  # between two tiles
            continue
        places += _until(ids, list(reversed(gap)), named - ends)
        if number:
            places += _until(ids, gap, ends)
    return places + _until(ids, range(runs[-1][-1] + 1, len(ids)), ends)


def _until(ids: Sequence[int], places: Sequence[int], markers: frozenset[int]) -> list[int]:
    """Places up to the last marker within reach."""
    near = list(places[:_REACH])
    last = max((n for n, at in enumerate(near) if ids[at] in markers), default=-1)
    return near[: last + 1]


def _tagged(ids: Sequence[int], runs: Runs) -> list[int]:
    """`<mark><name>` before the tokens of each tile, line feeds between rows of tiles, `<mark>` behind the image."""
    places: list[int] = []
    for number, run in enumerate(runs):
        before = runs[number - 1][-1] if number else -1
        mark = ids[run[0] - 2] if run[0] >= 2 and run[0] - 2 > before else None
        tagged = mark is not None and any(last[-1] + 1 < len(ids) and ids[last[-1] + 1] == mark for last in runs)
        if run[0] - 1 > before:
            places += [run[0] - 2, run[0] - 1] if tagged else [run[0] - 1]
        gap = range(before + 1, run[0])
        if number and tagged and ids[gap[0]] != mark:
            places += gap  # the image goes on in the next row of tiles
        if run[-1] + 1 < len(ids):
            follows = runs[number + 1][0] if number + 1 < len(runs) else len(ids)
            ended = not tagged or ids[run[-1] + 1] == mark
            places += [run[-1] + 1] if ended and run[-1] + 1 < follows else []
    return places


def _near(ids: Sequence[int], runs: Runs, config: Any) -> list[int]:
    holders = (config, getattr(config, "text_config", None))
    ordinary = frozenset().union(*(_values(holder, name) for holder in holders for name in _ORDINARY))
    token = ids[runs[0][0]]
    beside = [at for run in runs for at in (run[0] - 1, run[-1] + 1) if 0 <= at < len(ids)]
    return [at for at in beside if abs(ids[at] - token) <= _NEAR and ids[at] != token and ids[at] not in ordinary]


def _values(holder: Any, name: str) -> frozenset[int]:
    value = getattr(holder, name, None)
    if value is None:
        return frozenset()
    return frozenset(value if isinstance(value, list | tuple) else [value])
