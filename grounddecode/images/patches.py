"""Patches: which patches of a vision tower each image token stands for, from the configuration and the pixel inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounddecode.images.tiles import best_resolution, unpadded

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int]
UNKNOWN = "cannot be told from its image tokens"


@dataclass(frozen=True)
class Patches:
    """What a vision tower saw, picture by picture; a tile that it saw by itself is one.

    lengths: how many patches each has in the tower's sequence.  windows: of each, (windows, patches of one) long, which
    of its patches stand behind one image token.  tokens: (image tokens, 2) long, picture and window of all image tokens
    of the prompts in their order; -1 where one stands for no patch, such as the end of a row.
    """

    lengths: tuple[int, ...]
    windows: tuple[Tensor, ...]
    tokens: Tensor

    @classmethod
    def of(cls, config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
        """Of the pixel inputs `given` to a model, whose tower read a batch of `pictures` if it takes one size only.

        Raises:
            ValueError: patches that cannot be told from image tokens, with the reason.
        """
        return _READERS[config.model_type](config, given, pictures)


def why_none(config: Any) -> str | None:
    """Why patches of a model cannot be told from its image tokens; None if they can."""
    if config.model_type in _READERS:
        return None
    if getattr(config, "qformer_config", None) is not None:
        return "are read by learnt queries, each image token is a query's view of the whole picture"
    return UNKNOWN


def _whole(lengths: Sequence[int], windows: Sequence[Tensor]) -> Patches:
    """Pictures whose windows are image tokens in this order, without any between."""
    import torch

    tokens = [torch.stack([torch.full((len(x),), n), torch.arange(len(x))], dim=1) for n, x in enumerate(windows)]
    return Patches(tuple(lengths), tuple(windows), torch.cat(tokens))


def _blocks(height: int, width: int, merge: int) -> Tensor:
    """(windows, merge * merge): the patches of a grid by square windows, both in reading order."""
    import torch

    high, wide = height // merge, width // merge
    grid = torch.arange(height * width).view(height, width)[: high * merge, : wide * merge]
    return grid.reshape(high, merge, wide, merge).transpose(1, 2).reshape(high * wide, merge * merge)


def _pair(value: Any) -> Size:
    return (int(value[0]), int(value[1])) if isinstance(value, list | tuple) else (int(value), int(value))


# -- one size for all pictures: LLaVA, PaliGemma, InternVL, Gemma 3, DeepSeek-VL, Idefics3, SmolVLM --------------------
def _fixed(merge: Callable[[Any, int], int]) -> Callable[[Any, Mapping[str, Any], int], Patches]:
    """Windows of `merge(config, patches in a row)` patches in height and width."""

    def read(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
        size, patch = _pair(config.vision_config.image_size), _pair(config.vision_config.patch_size)
        height, width = size[0] // patch[0], size[1] // patch[1]
        blocks = _blocks(height, width, merge(config, height))
        return _whole([height * width] * pictures, [blocks] * pictures)

    return read


def _llava(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
    sized = config.vision_config.model_type == "pixtral"
    return (_sized if sized else _fixed(lambda *_: 1))(config, given, pictures)


# -- every picture in its own size: Pixtral, Mistral 3 -----------------------------------------------------------------
def _sized(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
    patch, merge = _pair(config.vision_config.patch_size), int(getattr(config, "spatial_merge_size", 1))
    grids = [(int(high) // patch[0], int(wide) // patch[1]) for high, wide in _given(given, "image_sizes").tolist()]
    return _whole([high * wide for high, wide in grids], [_blocks(*grid, merge) for grid in grids])


# -- patches in the order of the windows they are merged by: Qwen-VL, GLM-4V -------------------------------------------
def _merged(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
    import torch

    vision = config.vision_config
    merge = int(vision.spatial_merge_size)
    windows = []
    for frames, height, width in _given(given, "image_grid_thw").tolist():
        grid = (int(frames), int(height) // merge, int(width) // merge)
        order = _by_attention_window(grid, vision, merge)
        windows.append(order.argsort()[:, None] * merge * merge + torch.arange(merge * merge))
    return _whole([x.numel() for x in windows], windows)


def _by_attention_window(grid: tuple[int, int, int], vision: Any, merge: int) -> Tensor:
    """(tokens,) long: in which order the tower has them. Qwen2.5-VL sorts them by the windows that most layers see."""
    import torch

    frames, height, width = grid
    numbers = torch.arange(frames * height * width)
    if not hasattr(vision, "window_size") or not hasattr(vision, "fullatt_block_indexes"):
        return numbers
    side = int(vision.window_size) // merge // int(vision.patch_size)
    frame, row, column = numbers // (height * width), numbers // width % height, numbers % width
    window = (frame * height + row // side) * width + column // side
    return window.argsort(stable=True)


# -- patches with places of their own, pooled by these: Gemma 4 --------------------------------------------------------
def _placed(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
    places, side = _given(given, "image_position_ids").cpu(), int(config.vision_config.pooling_kernel_size)
    windows = []
    for picture in places:
        there = (picture != -1).all(dim=-1).nonzero()[:, 0]
        column, row = picture[there].unbind(dim=-1)
        pool = column // side + (int(column.max()) + 1) // side * (row // side)
        windows.append(there[pool.argsort(stable=True)].view(-1, side * side))
    return _whole([places.shape[1]] * len(places), windows)


# -- the whole picture, then all tiles as one grid with a marker behind each of its rows: LLaVA-NeXT, OneVision --------
def _any_resolution(config: Any, given: Mapping[str, Any], pictures: int) -> Patches:
    import torch

    vision = config.vision_config
    side = int(vision.image_size // vision.patch_size)
    tokens: list[tuple[int, int]] = []
    count = 0
    for high, wide in _given(given, "image_sizes").tolist():
        best = best_resolution(high, wide, config.image_grid_pinpoints)
        tiles = (best[0] // vision.image_size, best[1] // vision.image_size)
        tokens += [(count, cell) for cell in range(side * side)]
        tokens += _fine(count + 1, tiles, side, (high, wide), config)
        count += 1 + tiles[0] * tiles[1]
    cells = torch.arange(side * side)[:, None]
    return Patches((side * side,) * count, (cells,) * count, torch.tensor(tokens))


def _fine(first: int, tiles: Size, side: int, size: Size, config: Any) -> list[tuple[int, int]]:
    """Picture and window of the tokens that stand for tiles, numbered from `first`; (-1, 0) behind each row."""
    full = (side * tiles[0], side * tiles[1])
    rows, columns = unpadded(*size, *full)
    most = str(getattr(config, "vision_aspect_ratio", "")).removeprefix("anyres_max_")
    if most.isdigit() and math.sqrt(rows * columns / (int(most) * side**2)) > 1.1:
        raise ValueError(
            f"a picture of {size[1]} x {size[0]} pixels is scaled down behind the vision tower, so that its image "
            "tokens stand for blends of patches, use a smaller picture"
        )
    top, left = (full[0] - rows) // 2, (full[1] - columns) // 2
    tokens: list[tuple[int, int]] = []
    for row in range(top, top + rows):
        for column in range(left, left + columns):
            tile = row // side * tiles[1] + column // side
            tokens.append((first + tile, row % side * side + column % side))
        tokens.append((-1, 0))
    return tokens


def _given(given: Mapping[str, Any], name: str) -> Tensor:
    import torch

    if given.get(name) is None:
        raise ValueError(f"{name} says which patches belong to which image token, pass it beside the pixels")
    return torch.as_tensor(given[name])


_READERS: dict[str, Callable[[Any, Mapping[str, Any], int], Patches]] = {
    "llava": _llava,
    "paligemma": _fixed(lambda *_: 1),
    "deepseek_vl": _fixed(lambda *_: 1),
    "internvl": _fixed(lambda config, _: round(1 / config.downsample_ratio)),
    "gemma3": _fixed(lambda config, side: side // math.isqrt(config.mm_tokens_per_image)),
    **dict.fromkeys(("idefics3", "smolvlm"), _fixed(lambda config, _: int(config.scale_factor))),
    "mistral3": _sized,
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), _merged),
    **dict.fromkeys(("glm4v", "glm4v_moe", "glm46v"), _merged),
    "gemma4": _placed,
    **dict.fromkeys(("llava_next", "llava_onevision"), _any_resolution),
}
