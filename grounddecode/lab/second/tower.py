"""The second lab's tower: as the first lab's, and it also learns which patch holds the middle of an object."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from grounddecode.lab.second.stages import Pace, fall
from grounddecode.lab.text.corpus import PATCHES, Corpus
from grounddecode.lab.training.vision import Log, VisionTrainer, pixels
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
    rng = np.random.default_rng([seed, 31])
    trainer = CentreTrainer(model).to(device).train()
    optimiser = torch.optim.AdamW(trainer.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    step_loss, middles = compiled(trainer), centres(corpus.scenes)
    step = 0
    while (done := pace.done(step)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * fall(done, step, tail=0.6)
        rows = np.sort(rng.integers(0, len(corpus.scenes), batch))
        loss, hit = step_loss(pixels(corpus.images[rows], rng, device), _labels(corpus, middles, rows, device))
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 100 == 0:
            log("vision", step, {"loss": loss.item(), "patch_accuracy": hit.item()})
        step += 1


def _labels(corpus: Corpus, middles: np.ndarray, rows: np.ndarray, device: torch.device) -> tuple[Tensor, ...]:
    arrays = (
        corpus.patch_category[rows].astype(np.int64), corpus.patch_colour[rows].astype(np.int64), corpus.presence[rows],
        corpus.place[rows], middles[rows],
    )  # fmt: skip
    return tuple(torch.from_numpy(a).to(device) for a in arrays)
