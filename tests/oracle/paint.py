"""PAINT on whole matrices; the oracle takes nothing from grounddecode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grounddecode.methods.attention.paint import PAINT
from tests.oracle.avc import Contrast
from tests.oracle.case import Case
from tests.oracle.tower import Picture, pictures
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


def patch_sets(picture: Picture, local_share: float, spatial_share: float) -> tuple[list[int], list[int]]:
    """Local and summary tokens of one picture, numbers of the batch's image tokens."""
    count = len(picture.tokens)
    low, high = np.percentile(picture.last, [25, 75])
    summary = {j for j in range(count) if picture.last[j] > high + 1.5 * (high - low)}

    def top(values: list[float], share: float) -> set[int]:
        return set(sorted(range(count), key=lambda j: -values[j])[: int(count * share)])

    local = (top(picture.first, local_share) | top(picture.received, spatial_share)) - summary
    return [picture.tokens[j] for j in sorted(local)], [picture.tokens[j] for j in sorted(summary)]


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
    """Positions of local and summary tokens of every row, one picture or tile after another."""

    local_share: float = 0.25
    spatial_share: float = 0.0

    def __call__(self, context: Context) -> list[tuple[list[int], list[int]]]:
        model, inputs = context.pictures
        found, count = pictures(model, inputs)
        places = context.image.nonzero().tolist()
        assert len(places) == count
        sets: list[tuple[list[int], list[int]]] = [([], []) for _ in context.image]
        for picture in found:
            for which, tokens in enumerate(patch_sets(picture, self.local_share, self.spatial_share)):
                for row, at in (places[token] for token in tokens):
                    sets[row][which].append(at)
        return sets


_TOWERS = (
    *("llava", "internvl", "gemma3", "paligemma", "paligemma2", "deepseek_vl"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v", "mistral3", "pixtral", "gemma4"),
    *("llava_next", "llava_onevision", "idefics3", "smolvlm"),
)


def _cases() -> Iterator[Case]:
    layers = (0, 32)
    yield Case(
        "paint",
        (PAINT(alpha=0.9, beta=0.8, layers=layers),),
        (PaintEdit(0.9, 0.8, layers, TowerSets()),),
        only=_TOWERS,
    )
    yield Case(
        "paint-spatial-contrast",
        (PAINT(alpha=0.9, beta=0.2, local_share=0.4, spatial_share=0.3, layers=(1, 3), gamma=1.5),),
        (PaintEdit(0.9, 0.2, (1, 3), TowerSets(0.4, 0.3)),),
        TextContrast(weight=1.5),
        only=tuple(name for name in _TOWERS if name != "qwen3_5"),  # its contrast hides keys
    )
    local, summary = ((0, 3, 5, 8),), ((3, 4),)
    yield Case(
        "paint-given-sets",
        (PAINT(alpha=0.9, beta=0.3, layers=(0, 32), local_tokens=local, summary_tokens=summary),),
        (PaintEdit(0.9, 0.3, (0, 32), GivenSets([list(x) for x in local], [list(x) for x in summary])),),
        only=tuple(name for name in _TOWERS if not name.startswith("llava_")),
        everywhere=False,
    )


CASES = tuple(_cases())
