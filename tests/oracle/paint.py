"""PAINT on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grounddecode.methods.paint import PAINT
from tests.oracle.avc import Contrast
from tests.oracle.case import Case
from tests.oracle.whole import Context, Edit


@dataclass
class PaintEdit(Edit):
    """z + alpha |z| on local and z + beta |z| on summary tokens of the last prompt row and later ones.

    `sets` gives, for a whole batch, the positions of local and of summary tokens of each row.
    """

    alpha: float
    beta: float
    layers: tuple[int, int]
    sets: Callable[[Context], list[tuple[list[int], list[int]]]]

    def scores(self, scores: Tensor, context: Context) -> Tensor:
        if not self.layers[0] <= context.layer < self.layers[1]:
            return scores
        edited = scores.clone()
        for row, (local, summary) in enumerate(self.sets(context)):
            for positions, share in ((local, self.alpha), (summary, self.beta)):
                for i in range(context.prompt - 1, context.length):
                    z = scores[row, :, i, positions]
                    edited[row, :, i, positions] = torch.where(z == -torch.inf, z, z + share * z.abs())
        return edited


@dataclass
class TextContrast(Contrast):
    """gamma (s - u) + u on log-probabilities, u from a pass in which no image token is a key for anybody."""

    weight: float = 1.1
    cut: float = 0.1
    scheme: str = "mask"

    @property
    def strength(self) -> float:
        return self.weight - 1

    def blind(self, context: Context) -> Tensor:
        return torch.zeros_like(context.image)

    def mix(self, main: Tensor, other: Tensor) -> Tensor:
        s, u = main.double().log_softmax(-1), other.double().log_softmax(-1)
        likely = main.double().softmax(-1)
        kept = likely >= self.cut * likely.max(-1, keepdim=True).values
        return torch.where(kept, self.weight * (s - u) + u, -torch.inf).float()


def _keep(found: dict[Any, Tensor], place: Any, _: Any, __: Any, output: Tensor) -> None:
    found[place] = output


def tower_attention(model: Any, pixels: Tensor) -> list[Tensor]:
    """(images, heads, tokens, tokens) of every layer of the vision tower, from its projections of queries and keys."""
    found: dict[tuple[str, str], Tensor] = {}
    handles = []
    for path, module in model.model.vision_tower.named_modules():
        if path.endswith(("q_proj", "k_proj")):
            place = (path.rpartition(".")[0], path[-6:])
            handles.append(module.register_forward_hook(partial(_keep, found, place)))
    with torch.no_grad():
        model.model.vision_tower(pixels)
    for handle in handles:
        handle.remove()
    layers = []
    for path in dict.fromkeys(path for path, _ in found):
        heads = model.get_submodule(f"model.vision_tower.{path}").num_heads
        q, k = (found[path, name].unflatten(-1, (heads, -1)).transpose(1, 2).double() for name in ("q_proj", "k_proj"))
        layers.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))
    return layers


def patch_sets(
    first: Tensor, last: Tensor, local_share: float, spatial_share: float, tokens: int
) -> tuple[set[int], set[int]]:
    """Local and summary tokens of one image from two attention maps (heads, queries, keys) of its tower."""
    patches = math.isqrt(first.shape[-1]) ** 2
    cls = first.shape[-1] - patches  # 1 with a class token, which stands first
    received = first[:, cls:, cls:].mean((0, 1))
    top = first[:, 0, cls:].mean(0) if cls else received
    bottom = last[:, 0, cls:].mean(0) if cls else last.mean((0, 1))
    top, bottom, received = (pooled(x.numpy(), tokens) for x in (top, bottom, received))
    low, high = np.percentile(bottom, [25, 75])
    summary = {j for j in range(tokens) if bottom[j] > high + 1.5 * (high - low)}
    local = set(np.argsort(-top)[: int(tokens * local_share)].tolist())
    spatial = set(np.argsort(-received)[: int(tokens * spatial_share)].tolist())
    return (local | spatial) - summary, summary


def pooled(values: np.ndarray, tokens: int) -> np.ndarray:
    """Mean over square windows of a square picture, in reading order."""
    side, new = math.isqrt(len(values)), math.isqrt(tokens)
    picture, step = values.reshape(side, side), side // new
    windows = [picture[i * step : (i + 1) * step, j * step : (j + 1) * step] for i in range(new) for j in range(new)]
    return np.array([window.mean() for window in windows])


@dataclass
class GivenSets:
    """Positions of given local and summary tokens of every row's images; a set an image, in the order of the batch."""

    local: list[list[int]]
    summary: list[list[int]]
    tokens: int = 16

    def __call__(self, context: Context) -> list[tuple[list[int], list[int]]]:
        image, sets = 0, []
        for flags in context.image.tolist():
            at = [j for j, hit in enumerate(flags) if hit]
            local, summary = [], []
            for begin in range(0, len(at), self.tokens):
                held = self.summary[image % len(self.summary)]
                summary += [at[begin + j] for j in held]
                local += [at[begin + j] for j in self.local[image % len(self.local)] if j not in held]
                image += 1
            sets.append((local, summary))
        return sets


@dataclass
class TowerSets:
    """Positions of local and summary tokens of every row, one image after another."""

    local_share: float = 0.25
    spatial_share: float = 0.0
    tokens: int = 16

    def __call__(self, context: Context) -> list[tuple[list[int], list[int]]]:
        model, inputs = context.pictures
        maps = tower_attention(model, inputs["pixel_values"])
        reads = -2 if model.config.model_type == "llava" else -1
        image, sets = 0, []
        for flags in context.image.tolist():
            at = [j for j, hit in enumerate(flags) if hit]
            local, summary = [], []
            for begin in range(0, len(at), self.tokens):
                found = patch_sets(
                    maps[0][image], maps[reads][image], self.local_share, self.spatial_share, self.tokens
                )
                local += [at[begin + j] for j in found[0]]
                summary += [at[begin + j] for j in found[1]]
                image += 1
            sets.append((local, summary))
        return sets


def _cases() -> Iterator[Case]:
    towers = ("llava", "internvl", "gemma3", "paligemma", "paligemma2")
    layers = (0, 32)
    yield Case(
        "paint",
        (PAINT(alpha=0.9, beta=0.8, layers=layers),),
        (PaintEdit(0.9, 0.8, layers, TowerSets()),),
        only=towers,
    )
    yield Case(
        "paint-spatial-contrast",
        (PAINT(alpha=0.9, beta=0.2, local_share=0.4, spatial_share=0.3, layers=(1, 3), gamma=1.5),),
        (PaintEdit(0.9, 0.2, (1, 3), TowerSets(0.4, 0.3)),),
        TextContrast(weight=1.5),
        only=towers,
    )
    local, summary = ((0, 3, 5, 8),), ((3, 4),)
    yield Case(
        "paint-given-sets",
        (PAINT(alpha=0.9, beta=0.3, layers=(0, 32), local_tokens=local, summary_tokens=summary),),
        (PaintEdit(0.9, 0.3, (0, 32), GivenSets([list(x) for x in local], [list(x) for x in summary])),),
        only=("llava", "internvl", "gemma3", "paligemma", "paligemma2"),
        everywhere=False,
    )


CASES = tuple(_cases())
