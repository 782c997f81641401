"""ImageLayout: where the tokens of each image lie in the expanded sequence, and how they map back to pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class ImageSpan:
    """One image of one row: its token positions (ascending) and, where they form one, their (height, width) grid."""

    row: int
    positions: tuple[int, ...]
    grid: tuple[int, int] | None

    @property
    def start(self) -> int:
        return self.positions[0]

    @property
    def end(self) -> int:
        """Position of the last token (inclusive)."""
        return self.positions[-1]

    def heatmap(self, scores: Sequence[float] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Scores of the span's tokens, one each, as a picture.

        Args:
            scores: one number per token, in order.  size: (width, height) in pixels.

        Returns:
            float32 (height, width), bilinear between token centres.

        Raises:
            ValueError: the tokens form no grid, or the number of scores differs from theirs.
        """
        import numpy as np
        from PIL import Image

        values = np.asarray(scores, dtype=np.float32)
        if self.grid is None or values.size != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"{values.size} scores for {len(self.positions)} image tokens on grid {self.grid}, no picture"
            )
        picture = Image.fromarray(values.reshape(self.grid), mode="F")
        return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class ImageLayout:
    """All images of a batch: `mask` (rows, tokens) bool and one `ImageSpan` an image, row by row."""

    mask: Tensor
    spans: tuple[ImageSpan, ...]

    @property
    def image_end(self) -> Tensor:
        """(rows,) long: position of the last image token of each row, -1 without image."""
        import torch

        positions = torch.arange(self.mask.shape[1], device=self.mask.device)
        return torch.where(self.mask, positions, -1).amax(dim=1)

    @classmethod
    def from_ids(cls, ids: Tensor, image_token_id: int, grids: Sequence[tuple[int, int]] | None = None) -> ImageLayout:
        """From token ids whose image placeholders are expanded.

        Args:
            ids: (rows, tokens) long.
            grids: (height, width) of every image in reading order, from `token_grids`; without it, maximal runs of the
                image token are images, and a run of n*n tokens is taken for a square.
        """
        mask = ids == image_token_id
        rows = [[i for i, hit in enumerate(row) if hit] for row in mask.tolist()]
        if grids is not None and sum(h * w for h, w in grids) == sum(map(len, rows)):
            return cls(mask, tuple(_by_grid(rows, grids)))
        return cls(mask, tuple(span for row, positions in enumerate(rows) for span in _by_run(row, positions)))


def _by_grid(rows: list[list[int]], grids: Sequence[tuple[int, int]]) -> list[ImageSpan]:
    """Cut each row's image tokens into images of the given sizes (markers may stand between rows of one image)."""
    spans, left = [], list(grids)
    for row, positions in enumerate(rows):
        start = 0
        while start < len(positions):
            height, width = left.pop(0)
            spans.append(ImageSpan(row, tuple(positions[start : start + height * width]), (height, width)))
            start += height * width
    return spans


def _by_run(row: int, positions: list[int]) -> list[ImageSpan]:
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return [ImageSpan(row, tuple(run), _square(len(run))) for run in runs]


def _square(count: int) -> tuple[int, int] | None:
    side = math.isqrt(count)
    return (side, side) if side * side == count else None


def token_grids(inputs: Mapping[str, Any], config: Any) -> list[tuple[int, int]] | None:
    """(height, width) in tokens of every image, from what the processor returned; None where it says nothing.

    Reads `image_grid_thw` (Qwen-VL, GLM-4V; merged by `spatial_merge_size`).
    """
    grid = inputs.get("image_grid_thw")
    if grid is None:
        return None
    merge = int(getattr(getattr(config, "vision_config", config), "spatial_merge_size", 1) or 1)
    return [(int(t) * int(h) // merge, int(w) // merge) for t, h, w in grid.tolist()]


def image_token_id(config: Any) -> int | None:
    """Id of the token that stands for a piece of an image in a prompt, from a model's configuration."""
    for holder in (config, getattr(config, "vision_config", None)):
        for key in ("image_token_id", "image_token_index"):
            value = getattr(holder, key, None)
            if value is not None:
                return int(value)
    return None
