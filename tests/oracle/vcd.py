"""VCD: two whole passes a step, one with noised pixels; the oracle takes nothing from grounddecode."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from grounddecode.methods.attention.locore import LocoRE
from grounddecode.methods.contrast.vcd import VCD
from tests.oracle.case import Case
from tests.oracle.locore import LocoREEdit
from tests.oracle.prompts import cut
from tests.oracle.whole import Adjustment, Oracle

BEFORE = dict.fromkeys(("blip2", "instructblip"), "has read its pictures before its decoder begins")


def factors(step: int) -> tuple[float, float]:
    """What is left of the picture, and the factor of the noise, one product after the other."""
    left = 1.0
    for i in range(step + 1):
        u = -6 + 12 * i / 999
        left *= 1 - ((0.005 - 1e-5) / (1 + math.exp(-u)) + 1e-5)
    return math.sqrt(left), math.sqrt(1 - left)


def noised(inputs: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """Every frame, or every picture of patches, noised by itself."""
    changed = dict(inputs)
    for name in ("pixel_values", "image_pixel_values"):
        if name in inputs:
            pixels, grids = inputs[name], inputs.get("image_grid_thw")
            frames = pixels.view(-1, *pixels.shape[-3:]) if pixels.dim() > 3 else pixels
            parts = [x[None] for x in frames] if grids is None else frames.split([int(g.prod()) for g in grids])
            changed[name] = torch.cat([_noised(part, *factors(step)) for part in parts]).view(pixels.shape)
    return changed


def _noised(part: Tensor, left: float, share: float) -> Tensor:
    if not part.any():  # there is no picture
        return part
    seed = zlib.crc32(part.bfloat16().view(torch.int16).numpy().tobytes())
    return left * part + share * torch.randn(part.shape, generator=torch.Generator().manual_seed(seed))


@dataclass
class NoisedPicture(Adjustment):
    """(1 + alpha) l - alpha l' under VCD's cut."""

    alpha: float = 1.0
    beta: float = 0.1
    step: int = 500

    @property
    def strength(self) -> float:
        return self.alpha

    def logits(self, now: Tensor, oracle: Oracle, inputs: dict[str, Tensor], tokens: Tensor) -> Tensor:
        other = oracle.raw(noised(inputs, self.step), tokens).double()
        return cut((1 + self.alpha) * now.double() - self.alpha * other, now, self.beta).float()


CASES = (
    Case("vcd", (VCD(noise_step=999),), adjustments=(NoisedPicture(step=999),), refused=BEFORE),
    Case(
        "vcd-settings",
        (VCD(alpha=0.5, beta=0.02, noise_step=700),),
        adjustments=(NoisedPicture(0.5, 0.02, 700),),
        everywhere=False,
    ),
    Case(
        "locore+vcd",
        (LocoRE(beta=3.0), VCD(noise_step=999)),
        (LocoREEdit(3.0),),
        adjustments=(NoisedPicture(step=999),),
        everywhere=False,
    ),
)
