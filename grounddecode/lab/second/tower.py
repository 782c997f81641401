"""The second lab's tower: as the first lab's, and it also learns which patch holds the middle of an object."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounddecode.lab.second.stages import Pace, fall
from grounddecode.lab.text.corpus import PATCHES, Corpus
from grounddecode.lab.training.vision import Log, VisionTrainer, labels, learn, pixels
from grounddecode.lab.world import CELL, GRID, Scene


class CentreTrainer(VisionTrainer):
    """With one more head: without it the patches of one large object and of two small ones look alike."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.centre = nn.Linear(model.config.vision_config.hidden_size, 1)

    def judged(self, patches: Tensor, last: Tensor, labels: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """`labels` end with the centres (n, 64)."""
        *others, middles = labels
        loss, hit = super().judged(patches, last, tuple(others))
        guess = self.centre(patches)[..., 0].float()
        return loss + 0.5 * F.binary_cross_entropy_with_logits(guess, middles, pos_weight=guess.new_tensor(4.0)), hit


def centres(scenes: list[Scene]) -> np.ndarray:
    """(n, 64) float32: 1 for every patch that holds the middle of an object's box."""
    out = np.zeros((len(scenes), PATCHES), np.float32)
    for row, scene in zip(out, scenes, strict=True):
        for thing in scene.objects:
            x, y = (min(GRID - 1, int(value // CELL)) for value in thing.centre)
            row[y * GRID + x] = 1.0
    return out


def train_tower(
    model: Any, corpus: Corpus, seed: int, pace: Pace, device: torch.device, compiled: Callable[[Any], Any], log: Log,
    batch: int = 96, rate: float = 2e-3,
) -> None:  # fmt: skip
    """Train the tower in place; `log` hears of loss and patch accuracy."""
    torch.manual_seed(seed)
    rng, middles = np.random.default_rng([seed, 31]), centres(corpus.scenes)

    def show(rows: np.ndarray) -> tuple[Tensor, tuple[Tensor, ...]]:
        told = labels(corpus, rows, device)
        return pixels(corpus.images[rows], rng, device), (*told, torch.from_numpy(middles[rows]).to(device))

    def draws() -> Iterator[tuple[float, np.ndarray]]:
        step = 0
        while (done := pace.done(step)) < 1:
            yield fall(done, step, tail=0.6), np.sort(rng.integers(0, len(corpus.scenes), batch))
            step += 1

    learn(CentreTrainer(model).to(device), draws(), show, compiled, log, rate, nullcontext())
