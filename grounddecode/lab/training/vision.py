"""Stage 1 of the lab's training: the CLIP tower learns what is where, then it is frozen and its features are cached."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from grounddecode.lab.model import vision_parts
from grounddecode.lab.scenes.sprites import COLOURS
from grounddecode.lab.text.corpus import BACKGROUND, PATCHES, Corpus
from grounddecode.lab.world import CATEGORIES, SCENES

Log = Callable[[str, int, dict[str, float]], None]
NOISED = 0.1  # share of the pictures that are blended with noise


class VisionTrainer(nn.Module):
    """The tower with heads that are thrown away: category and colour per patch, objects and scene per image."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.parts = vision_parts(model)
        width = model.config.vision_config.hidden_size
        self.norm = nn.LayerNorm(width)
        self.category = nn.Linear(width, len(CATEGORIES) + 1)
        self.colour = nn.Linear(width, len(COLOURS) + 1)
        self.whole = nn.Linear(width, len(CATEGORIES) + len(SCENES))

    def features(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states before the last layer, which is what LLaVA reads, and after it."""
        hidden = self.parts.pre_layrnorm(self.parts.embeddings(pixels))
        for layer in self.parts.encoder.layers[:-1]:
            hidden = _only(layer(hidden, attention_mask=None))
        return hidden, _only(self.parts.encoder.layers[-1](hidden, attention_mask=None))

    def forward(self, pixels: torch.Tensor, labels: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and the share of object patches whose category is right."""
        inner, last = self.features(pixels)
        return self.judged(self.norm(inner[:, 1:]), last, labels)

    def judged(
        self, patches: torch.Tensor, last: torch.Tensor, labels: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and the share from normed patches before the last layer, and the tokens after it."""
        category, colour, presence, place = labels
        guess, tint, whole = (
            self.category(patches).float(),
            self.colour(patches).float(),
            self.whole(last[:, 0]).float(),
        )
        objects = category != BACKGROUND
        weight = torch.where(objects, 1.0, 0.25)
        loss = (F.cross_entropy(guess.transpose(1, 2), category, reduction="none") * weight).sum() / weight.sum()
        loss = (
            loss + 0.5 * (F.cross_entropy(tint.transpose(1, 2), colour, reduction="none") * weight).sum() / weight.sum()
        )
        loss = loss + 0.5 * F.binary_cross_entropy_with_logits(whole[:, : len(CATEGORIES)], presence)
        loss = loss + 0.1 * F.cross_entropy(whole[:, len(CATEGORIES) :], place)
        hit = ((guess.argmax(-1) == category) & objects).sum() / objects.sum()
        return loss, hit


def _only(output: Any) -> torch.Tensor:
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def pixels(
    images: np.ndarray, rng: np.random.Generator | None, device: torch.device, noised: float = NOISED
) -> torch.Tensor:
    """Images as the processor gives them; with `rng` the light varies and a share of them is blended with noise."""
    batch = torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    if rng is None:
        return batch
    n = len(images)
    gain, shift = (
        torch.from_numpy(v.astype(np.float32)).to(device) for v in (rng.uniform(0.85, 1.15, n), rng.normal(0, 0.06, n))
    )
    batch = batch * gain.view(-1, 1, 1, 1) + shift.view(-1, 1, 1, 1)
    share = (
        torch.from_numpy(np.where(rng.random(n) < noised, rng.random(n), 0.0).astype(np.float32))
        .to(device)
        .view(-1, 1, 1, 1)
    )
    return batch * (1 - share) + torch.randn_like(batch) * share


def schedule(step: int, steps: int, warmup: int = 60) -> float:
    """Learning-rate factor: linear warm-up, flat until 40 %, cosine to zero over the last 60 %."""
    rise = min(1.0, (step + 1) / warmup)
    done = max(0.0, (step / steps - 0.4) / 0.6)
    return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train_vision(
    model: Any, corpus: Corpus, seed: int, steps: int, device: torch.device, compiled: Callable[[Any], Any], log: Log,
    batch: int = 64, rate: float = 2e-3, noised: float = NOISED,
) -> None:  # fmt: skip
    """Train the tower in place; `log` hears of loss and patch accuracy."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])

    def show(rows: np.ndarray) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        return pixels(corpus.images[rows], rng, device, noised), labels(corpus, rows, device)

    draws = (
        (schedule(step, steps), np.sort(rng.choice(len(corpus.scenes), batch, replace=False))) for step in range(steps)
    )
    learn(
        VisionTrainer(model).to(device), draws, show, compiled, log, rate, torch.autocast(device.type, torch.bfloat16)
    )


def labels(corpus: Corpus, rows: np.ndarray, device: torch.device) -> tuple[torch.Tensor, ...]:
    """What `VisionTrainer` is told of some scenes: category and colour of every patch, objects and place."""
    patches = (corpus.patch_category[rows].astype(np.int64), corpus.patch_colour[rows].astype(np.int64))
    return tuple(torch.from_numpy(a).to(device) for a in (*patches, corpus.presence[rows], corpus.place[rows]))


def learn(
    trainer: nn.Module, draws: Iterable[tuple[float, np.ndarray]],
    show: Callable[[np.ndarray], tuple[torch.Tensor, tuple[torch.Tensor, ...]]], compiled: Callable[[Any], Any],
    log: Log, rate: float, precision: AbstractContextManager[Any],
) -> None:  # fmt: skip
    """Steps of AdamW: each of `draws` has the factor of the rate and the rows that `show` turns into a batch."""
    optimiser = torch.optim.AdamW(trainer.train().parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    step_loss = compiled(trainer)
    for step, (factor, rows) in enumerate(draws):
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
        with precision:
            loss, hit = step_loss(*show(rows))
        loss.backward()
        nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0:
            log("vision", step, {"loss": loss.item(), "patch_accuracy": hit.item()})


@torch.no_grad()
def cache_features(
    model: Any, corpus: Corpus, seed: int, device: torch.device, batch: int = 256, noised: float = NOISED
) -> torch.Tensor:
    """Projector inputs (n, 64, width) float16 of all training images; a share of them is seen through noise."""
    rng = np.random.default_rng([seed, 2])
    torch.manual_seed(seed)
    trainer = VisionTrainer(model).to(device).eval()
    rows = len(corpus.scenes)
    out = torch.empty(rows, PATCHES, model.config.vision_config.hidden_size, dtype=torch.float16)
    for start in range(0, rows, batch):
        images = pixels(corpus.images[start : start + batch], None, device)
        share = torch.from_numpy(
            np.where(rng.random(len(images)) < noised, rng.random(len(images)), 0.0).astype(np.float32)
        )
        share = share.to(device).view(-1, 1, 1, 1)
        noisy = images * (1 - share) + torch.randn_like(images) * share
        with torch.autocast(device.type, torch.bfloat16):
            hidden = trainer.features(noisy)[0]
        out[start : start + batch] = hidden[:, 1:].to("cpu", torch.float16)
    return out
