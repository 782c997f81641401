"""ImageLayout: where the tokens of each image lie in the expanded sequence, and how they map back to pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from grounddecode.images.frames import framed
from grounddecode.images.tiles import Box, Tile, images_of_row, runs_of

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class ImageSpan:
    """One image of one row: its token positions (ascending) and its tiles, where it is known how they are cut."""

    row: int
    positions: tuple[int, ...]
    tiles: tuple[Tile, ...] = ()

    @property
    def start(self) -> int:
        """Position of its first token."""
        return self.positions[0]

    @property
    def end(self) -> int:
        """Position of the last token (inclusive)."""
        return self.positions[-1]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(height, width) of the one grid that all tokens form; None where they form none, or several."""
        return self.tiles[0].grid if len(self.tiles) == 1 else None

    def places(self, size: tuple[int, int]) -> tuple[Box | None, ...]:
        """(left, top, right, bottom) in a picture of (width, height) pixels of each token, in order.

        None for tokens that stand for no place, or for one that is not known. Where several tiles show a place, so do
        tokens of all of them.
        """
        found = {
            at: box for tile in self.tiles for at, box in zip(tile.positions, tile.cells(size), strict=True) if box
        }
        return tuple(found.get(at) for at in self.positions)

    def heatmap(self, scores: Sequence[float] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Scores of the span's tokens, one each, as a picture.

        Args:
            scores: one number per token, in order.  size: (width, height) in pixels.

        Returns:
            float32 (height, width), bilinear between token centres; the mean where several tiles show a place. Tokens
            that stand for no place, such as the ends of rows, are left out.

        Raises:
            ValueError: the tokens form no grid, the number of scores differs from theirs, or the tiles' places are not
                known without the sizes of the pictures.
        """
        import numpy as np

        values = np.asarray(scores, dtype=np.float32)
        if not self.tiles or values.size != len(self.positions):
            grids = ", ".join(str(tile.grid) for tile in self.tiles) or "None"
            raise ValueError(f"{values.size} scores for {len(self.positions)} image tokens on grid {grids}, no picture")
        if any(tile.box is None for tile in self.tiles):
            raise ValueError("where the tiles lie follows from the picture's size, make the layout with `sizes`")
        of_token = dict(zip(self.positions, values.ravel().tolist(), strict=True))
        layers = [_painted(tile, [of_token[at] for at in tile.positions], size) for tile in self.tiles]
        with np.errstate(invalid="ignore"):
            mean: np.ndarray = np.nanmean(np.stack(layers), axis=0)
        return mean


def _painted(tile: Tile, scores: list[float], size: tuple[int, int]) -> np.ndarray:
    """(height, width) float32: the scores where the tile lies, nan elsewhere."""
    import numpy as np
    from PIL import Image

    left, top, right, bottom = (round(edge) for edge in tile.pixels(size) or (0, 0, *size))
    values = np.asarray(scores, dtype=np.float32).reshape(tile.grid)
    part = Image.fromarray(values, mode="F").resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    canvas = np.full((max(bottom, size[1]), max(right, size[0])), np.nan, dtype=np.float32)
    canvas[top:bottom, left:right] = np.asarray(part)
    return canvas[: size[1], : size[0]]


@dataclass(frozen=True)
class ImageLayout:
    """All images of a batch: `mask` (rows, tokens) bool and one `ImageSpan` an image, row by row."""

    mask: Tensor
    spans: tuple[ImageSpan, ...]

    @property
    def image_end(self) -> Tensor:
        """(rows,) long: position of the last image token of each row, -1 without image."""
        return image_ends(self.mask)

    @classmethod
    def of(cls, inputs: Mapping[str, Any], config: Any, sizes: Sequence[tuple[int, int]] | None = None) -> ImageLayout:
        """From what a processor returned and the model's configuration.

        Knows the tiles of LLaVA, LLaVA-NeXT, Qwen-VL, GLM-4V, InternVL, Idefics3, SmolVLM and Llama 4; elsewhere as
        `from_ids`.

        Args:
            inputs: `input_ids` (rows, tokens) with expanded image placeholders, and what stands beside them.
            sizes: (width, height) of every picture in reading order. InternVL's tiles have no place without them, and
                Llama 4's cover the padding too.
        """
        token = image_token_id(config)
        mask = image_mask(inputs["input_ids"], token)
        spans: list[ImageSpan] = []
        for row, ids in enumerate(inputs["input_ids"].tolist()):
            images = None if token is None else images_of_row(ids, token, inputs, config, len(spans), sizes)
            spans += _by_run(row, mask[row]) if images is None else _by_tiles(row, mask[row], images)
        return cls(mask, tuple(spans))

    @staticmethod
    def framed(ids: Tensor, config: Any) -> Tensor:
        """Bool (rows, tokens): all that belongs to images, their tokens, begin and end markers and ends of rows.

        The rest is the text of the prompt: what stays of it when its pictures go. See `grounddecode.images.frames`.

        Args:
            ids: (rows, tokens) long, with expanded image placeholders.  config: of the whole model.
        """
        return framed(ids, image_mask(ids, image_token_id(config)), config)

    @classmethod
    def from_ids(cls, ids: Tensor, image_token_id: int) -> ImageLayout:
        """From token ids alone, (rows, tokens) long: a run of the image token is an image, n*n of them a square."""
        mask = image_mask(ids, image_token_id)
        return cls(mask, tuple(span for row in range(len(mask)) for span in _by_run(row, mask[row])))


def image_mask(ids: Tensor, token: int | None) -> Tensor:
    """Bool, of the shape of the ids: which of them stand for a piece of an image."""
    import torch

    return torch.zeros_like(ids, dtype=torch.bool) if token is None else ids == token


def image_ends(mask: Tensor) -> Tensor:
    """(rows,) long: position of the last image token of each row of `mask` (rows, tokens), -1 without image."""
    import torch

    return torch.where(mask, torch.arange(mask.shape[1], device=mask.device), -1).amax(dim=1)


def _by_tiles(row: int, mask: Tensor, images: Sequence[tuple[Tile, ...]]) -> list[ImageSpan]:
    """Spans of a row's images; tokens behind an image's tiles, such as the ends of rows, are the image's."""
    places = mask.nonzero()[:, 0].tolist()
    starts = [min(tile.positions[0] for tile in tiles) for tiles in images] + [math.inf]
    return [
        ImageSpan(row, tuple(at for at in places if start <= at < end), tiles)
        for tiles, start, end in zip(images, starts, starts[1:], strict=False)
    ]


def _by_run(row: int, mask: Tensor) -> list[ImageSpan]:
    spans = []
    for run in runs_of(mask.nonzero()[:, 0].tolist()):
        side = math.isqrt(len(run))
        square = (Tile(tuple(run), (side, side)),) if side * side == len(run) else ()
        spans.append(ImageSpan(row, tuple(run), square))
    return spans


def image_token_id(config: Any) -> int | None:
    """Id of the token that stands for a piece of an image in a prompt, from a model's configuration."""
    for holder in (config, getattr(config, "vision_config", None)):
        for key in ("image_token_id", "image_token_index"):
            value = getattr(holder, key, None)
            if value is not None:
                return int(value)
    return None
