"""Tiles: which part of its picture each token of an image stands for, from ids and what the processor returned."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Size = tuple[int, int]  # (width, height) of a picture in pixels
Runs = list[list[int]]
Box = tuple[float, float, float, float]  # (left, top, right, bottom)
Cut = Literal["tile", "row", "image"]  # what begins behind a gap between two runs of image tokens


@dataclass(frozen=True)
class Tile:
    """A part of a picture that the vision tower saw by itself, or the whole picture seen at once.

    positions: its tokens, row by row.  grid: (height, width) they form.  box: (left, top, right, bottom) as shares of
    the picture's size, beyond 1 where a tile is padded; None where it follows from the picture's size and that was not
    given.
    """

    positions: tuple[int, ...]
    grid: tuple[int, int]
    box: Box | None = (0.0, 0.0, 1.0, 1.0)

    def pixels(self, size: Size) -> Box | None:
        """(left, top, right, bottom) in a picture of (width, height) pixels."""
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        return left * size[0], top * size[1], right * size[0], bottom * size[1]

    def cells(self, size: Size) -> tuple[Box | None, ...]:
        """The same of each of its tokens, cut off where the picture ends; None in the padding, or without a place."""
        whole = self.pixels(size)
        if whole is None:
            return (None,) * len(self.positions)
        left, top, right, bottom = whole
        rows, columns = self.grid
        high, wide = (bottom - top) / rows, (right - left) / columns
        corners = ((left + column * wide, top + row * high) for row in range(rows) for column in range(columns))
        return tuple(
            (x, y, min(x + wide, size[0]), min(y + high, size[1])) if x < size[0] and y < size[1] else None
            for x, y in corners
        )


def images_of_row(
    ids: Sequence[int], token: int, inputs: Mapping[str, Any], config: Any, first: int, sizes: Sequence[Size] | None
) -> list[tuple[Tile, ...]] | None:
    """The tiles of every image of one row of ids, in reading order; None where they are cut in no way known here.

    Which way follows from what the processor returned and the configuration has, not from the name of a family.

    Args:
        token: that of images.  first: how many images stand in the rows before.
        sizes: (width, height) of the pictures of all rows.
    """
    positions = [at for at, one in enumerate(ids) if one == token]
    runs = runs_of(positions)
    if inputs.get("image_grid_thw") is not None:
        return _one_grid(positions, inputs["image_grid_thw"].tolist()[first:], config)
    if inputs.get("image_sizes") is not None and hasattr(config, "image_grid_pinpoints"):
        return _any_resolution(positions, inputs["image_sizes"].tolist()[first:], config)
    if hasattr(config, "downsample_ratio") and hasattr(config, "image_seq_length"):
        return _all([_thumbnail_last(run, config, _size(sizes, first + n)) for n, run in enumerate(runs)])
    if hasattr(config, "eoi_token_index"):
        images = _grouped(ids, runs, _separated(ids, runs, config.eoi_token_index))
        return _all([_tiled(rows, _content(rows, config, _size(sizes, first + n))) for n, rows in enumerate(images)])
    if hasattr(config, "scale_factor") and runs and runs[0][0] >= 2:
        return _all([_tiled(rows, (1.0, 1.0)) for rows in _grouped(ids, runs, _framed(ids[runs[0][0] - 2]))])
    return None


def runs_of(positions: Sequence[int]) -> Runs:
    """Ascending positions as maximal runs without a gap."""
    runs: Runs = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _all(images: list[tuple[Tile, ...] | None]) -> list[tuple[Tile, ...]] | None:
    known = [tiles for tiles in images if tiles is not None]
    return known if len(known) == len(images) else None


def _size(sizes: Sequence[Size] | None, number: int) -> Size | None:
    return None if sizes is None else sizes[number]


def _side(count: int) -> int | None:
    side = math.isqrt(count)
    return side if side * side == count else None


# -- one grid an image: Qwen-VL, GLM-4V (the tower's windows come back in the order of the grid) ----------------------
def _one_grid(positions: list[int], grids: Sequence[Sequence[int]], config: Any) -> list[tuple[Tile, ...]] | None:
    merge = int(getattr(getattr(config, "vision_config", config), "spatial_merge_size", 1) or 1)
    images: list[tuple[Tile, ...]] = []
    at = 0
    for frames, height, width in grids:
        if at == len(positions):
            break
        grid = (frames * height // merge, width // merge)
        images.append((Tile(tuple(positions[at : at + grid[0] * grid[1]]), grid),))
        at += grid[0] * grid[1]
    return images if at == len(positions) else None


# -- the whole picture, then all tiles as one grid with a marker behind each of its rows: LLaVA-NeXT -------------------
def _any_resolution(positions: list[int], shapes: Sequence[Size], config: Any) -> list[tuple[Tile, ...]] | None:
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    images: list[tuple[Tile, ...]] = []
    at = 0
    for height, width in shapes:
        if at == len(positions):
            break
        best = best_resolution(height, width, config.image_grid_pinpoints)
        rows, columns = unpadded(height, width, *(side * (length // vision.image_size) for length in best))
        base, end = at + side * side, at + side * side + rows * (columns + 1)
        fine = [positions[i] for i in range(base, min(end, len(positions))) if (i - base) % (columns + 1) < columns]
        images.append((Tile(tuple(positions[at:base]), (side, side)), Tile(tuple(fine), (rows, columns))))
        at = end
    return images if at == len(positions) else None


def best_resolution(height: int, width: int, resolutions: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The (height, width) that keeps most of the picture's pixels, the smallest of several."""

    def worth(resolution: Sequence[int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    high, wide = max(resolutions, key=worth)
    return int(high), int(wide)


def unpadded(height: int, width: int, rows: int, columns: int) -> tuple[int, int]:
    """The grid without the rows or columns that only padding fills."""
    if width / height > columns / rows:
        return rows - 2 * ((rows - int(round(height * columns / width, 7))) // 2), columns
    return rows, columns - 2 * ((columns - int(round(width * rows / height, 7))) // 2)


# -- tiles row by row, then the whole picture, without a marker: InternVL ----------------------------------------------
def _thumbnail_last(run: list[int], config: Any, size: Size | None) -> tuple[Tile, ...] | None:
    vision = config.vision_config
    pixels, patch = (x[0] if isinstance(x, list | tuple) else x for x in (vision.image_size, vision.patch_size))
    side = int(pixels // patch * config.downsample_ratio)
    count, rest = divmod(len(run), side * side)
    if rest or not count:
        return None
    parts = [tuple(run[n * side * side : (n + 1) * side * side]) for n in range(count)]
    whole = Tile(parts[-1], (side, side))
    if count == 1:
        return (whole,)
    columns = None if size is None else _columns(count - 1, size)
    boxes = [None if columns is None else _box(n, (count - 1) // columns, columns) for n in range(count - 1)]
    return (*(Tile(part, (side, side), box) for part, box in zip(parts, boxes, strict=False)), whole)


def _columns(count: int, size: Size) -> int:
    """In how many columns the tiles stand: those nearest to the proportions of the picture."""
    possible = [columns for columns in range(1, count + 1) if count % columns == 0]
    return min(possible, key=lambda columns: abs(size[0] / size[1] - columns * columns / count))


def _box(number: int, rows: int, columns: int, content: tuple[float, float] = (1.0, 1.0)) -> Box:
    row, column = divmod(number, columns)
    wide, high = columns * content[0], rows * content[1]
    return column / wide, row / high, (column + 1) / wide, (row + 1) / high


# -- tiles row by row, then the whole picture, with markers between: Idefics3, SmolVLM, Llama 4 ------------------------
def _grouped(ids: Sequence[int], runs: Runs, begins: Callable[[Sequence[int]], Cut]) -> list[list[Runs]]:
    """The runs of every image, by rows of tiles; the last row is the whole picture."""
    images: list[list[Runs]] = []
    for n, run in enumerate(runs):
        cut: Cut = "image" if n == 0 else begins(ids[runs[n - 1][-1] + 1 : run[0]])
        if cut == "image":
            images.append([[run]])
        elif cut == "row":
            images[-1].append([run])
        else:
            images[-1][-1].append(run)
    return images


def _framed(edge: int) -> Callable[[Sequence[int]], Cut]:
    """Idefics3: `edge` and the tile's name before each tile, a line break behind each row, `edge` behind an image."""

    def begins(gap: Sequence[int]) -> Cut:
        if len(gap) == 2:
            return "tile"
        return "image" if gap[0] == edge else "row"

    return begins


def _separated(ids: Sequence[int], runs: Runs, end: int) -> Callable[[Sequence[int]], Cut]:
    """Llama 4: one separator between tiles, another behind each row, a further marker before the whole picture."""
    gaps = [ids[before[-1] + 1 : after[0]] for before, after in itertools.pairwise(runs)]
    behind_rows = {gap[0] for gap in gaps if len(gap) > 1 and end not in gap}

    def begins(gap: Sequence[int]) -> Cut:
        if end in gap:
            return "image"
        return "row" if gap[0] in behind_rows else "tile"

    return begins


def _tiled(rows: list[Runs], content: tuple[float, float]) -> tuple[Tile, ...] | None:
    """Tiles of one size in rows of one length; `content`: shares of their width and height that the picture fills."""
    (whole,), parts, columns = rows[-1][:1], rows[:-1], len(rows[0])
    side = _side(len(whole))
    regular = all(len(row) == columns and all(len(run) == len(whole) for run in row) for row in parts)
    if side is None or not regular or len(rows[-1]) != 1:
        return None
    flat = [run for row in parts for run in row]
    tiles = [Tile(tuple(run), (side, side), _box(n, len(parts), columns, content)) for n, run in enumerate(flat)]
    return (*tiles, Tile(tuple(whole), (side, side)))


def _content(rows: list[Runs], config: Any, size: Size | None) -> tuple[float, float]:
    """Llama 4 keeps a picture's proportions and pads it on the right and below, to a whole number of tiles."""
    if size is None or len(rows) == 1:
        return 1.0, 1.0
    tile = config.vision_config.image_size
    wide, high = len(rows[0]) * tile, (len(rows) - 1) * tile
    room = (min(max(size[0], tile), wide), min(max(size[1], tile), high))
    scale = min(room[0] / size[0], room[1] / size[1])
    return size[0] * scale / wide, size[1] * scale / high
