"""CICD: a whole pass with each reference a step; the oracle takes nothing from grounddecode.

The banks hold as many pictures as there are references, so that it does not matter in which order they are drawn.
"""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.contrast.cicd import CICD
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.prompts import cut
from tests.oracle.vcd import BEFORE
from tests.oracle.whole import Adjustment, Oracle

# The same in every process of a run: names of tests hold it. torch as it is named keeps versions apart.
FOLDER = Path(tempfile.gettempdir()) / f"grounddecode-banks-{os.getuid()}-{torch.__version__}"


def bank(count: int) -> str:
    """A file of normal pictures of 3 x 32 x 32."""
    path = FOLDER / f"{count}.pt"
    if not path.exists():
        FOLDER.mkdir(exist_ok=True)
        own = path.with_suffix(f".{os.getpid()}")
        torch.save(pictures(count), own)
        own.replace(path)
    return str(path)


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(77))


def in_place(inputs: dict[str, Tensor], picture: Tensor) -> dict[str, Tensor]:
    """The inputs with one picture in the place of every frame, or of every picture of patches."""
    changed = dict(inputs)
    for name in ("pixel_values", "image_pixel_values"):
        if name not in inputs:
            continue
        pixels = inputs[name]
        if pixels.dim() == 2:
            changed[name] = patches(picture, 4).repeat(len(inputs["image_grid_thw"]), 1)
        else:
            there = (pixels != 0).flatten(-3).any(-1)
            changed[name] = picture.expand(pixels.shape) * there[..., None, None, None]
    return changed


def patches(picture: Tensor, size: int) -> Tensor:
    """Patches of a picture of 8 x 8 of them, four of a window of 2 x 2 after the other."""
    found = []
    for window in range(16):
        top, left = 2 * (window // 4), 2 * (window % 4)
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            found.append(picture[:, y * size : (y + 1) * size, x * size : (x + 1) * size].flatten())
    return torch.stack(found)


@dataclass
class CrossImage(Adjustment):
    """(1 + alpha) s - alpha c, s log-probabilities, c the logarithm of the references' mean probability."""

    count: int
    alpha: float = 0.5
    beta: float = 0.1
    gate: float = math.inf

    @property
    def strength(self) -> float:
        return 2 * self.alpha + 0.5  # of log-probabilities, whose errors are up to twice those of logits

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        passes = [oracle.raw(in_place(inputs, one), tokens).double().softmax(-1) for one in pictures(self.count)]
        mean, s = sum(passes) / self.count, now.double().log_softmax(-1)
        apart = sum((p * (p / mean).log()).sum(-1, keepdim=True) for p in passes) / self.count
        mixed = cut((1 + self.alpha) * s - self.alpha * mean.log(), now, self.beta)
        return torch.where(apart <= self.gate, mixed, now.double()).float()


PACKED = {"gemma4": "show a picture is not known"}

CASES = (
    Case("cicd", (CICD(references=2, bank=bank(2)),), adjustments=(CrossImage(2),), refused=BEFORE | PACKED),
    Case(
        "cicd-settings",
        (CICD(references=1, bank=bank(1), alpha=1.0, beta=0.02),),
        adjustments=(CrossImage(1, 1.0, 0.02),),
        everywhere=False,
    ),
    Case(
        "cicd-gate",
        (CICD(references=3, bank=bank(3), gate=0.03),),
        adjustments=(CrossImage(3, gate=0.03),),
        everywhere=False,
    ),
    Case(
        "locore+cicd",
        (LocoRE(beta=3.0), CICD(references=2, bank=bank(2))),
        (LocoREEdit(3.0),),
        adjustments=(CrossImage(2),),
        everywhere=False,
    ),
)
