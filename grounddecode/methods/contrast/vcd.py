"""VCD: visual contrastive decoding, a contrast with a stream that reads a noised picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.maths import contrast, picture_noise
from grounddecode.method import Method, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

STEPS = 1000  # of the diffusion whose noise is used


@cache
def noise_share(step: int) -> float:
    """sqrt(1 - abar) behind `step` + 1 of the diffusion's steps, in (0, 1); sqrt(abar) is what is left of the picture.

    `b_i = sigmoid(u_i) (0.005 - 1e-5) + 1e-5` with u_i evenly from -6 to 6, `abar = prod_{i <= step} (1 - b_i)`.
    """
    b = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (0.005 - 1e-5) + 1e-5
    return float((1 - (1 - b[: step + 1]).prod()).sqrt())


@dataclass(frozen=True, kw_only=True)
class VCD(Method):
    """Subtract what the model would say if its picture were noised.

    A second stream reads the same prompt with other pixels: normal noise on the normalised ones, as much as a diffusion
    has after `noise_step` steps, drawn once a picture and kept for the whole answer. At each step the logits become
    `(1 + alpha) * main - alpha * second` on the tokens that pass the plausibility cut, -inf elsewhere. Both streams
    read the token that was chosen. Source: "Mitigating Object Hallucinations in Large Vision-Language Models through
    Visual Contrastive Decoding" (arXiv 2311.16922), Eq. 2-5, and its code for the schedule of the noise.

    Differs from the released code: greedy decoding and beams work, not sampling alone; every picture has noise of its
    own, drawn by `seed` and what the picture is, so that a batch answers as its rows do; both frames of a still in
    Qwen's patches, if there are two, are noised alike. Its contrast once vanished behind the first token. Published
    numbers are of sampling at temperature 1. `share` gives the noise outright: the factor of the noise, `sqrt(1 -
    share**2)` being that of the picture; 500 steps are .505, 999 are .959. `alpha=0` switches the method off, its cut
    included. Cost: both streams run as one batch of twice the rows; the vision tower runs twice; twice the cache.

    Formula: `x' = sqrt(abar) x + sqrt(1 - abar) e`, `logit' = (1 + alpha) l - alpha l'` where `l >= ln(beta) + max l`,
    else -inf; `abar` as `noise_share` says.
    Shapes: x pixel values (N, ...); logits (R, vocabulary), R rows.
    Units: `alpha` is a factor on logits, `beta` a share of the best token's probability, `share` of a deviation of
    normalised pixels.
    Ranges: see the fields; usual are `alpha` 0.5 to 1, `beta` 0.1, `noise_step` 500 to 999.
    Errors: ValueError for a value outside its range; engines refuse models that read their pictures beforehand, or
    through cross-attention.

    Example:
        >>> with ground(model, VCD(share=0.9)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. A cell phone is to the left of']
    """

    name: ClassVar[str] = "vcd"
    paper: ClassVar[str] = "arXiv:2311.16922 (CVPR 2024)"
    summary: ClassVar[str] = "contrasts with a stream that reads a noised picture"

    alpha: float = option(1.0, "contrast weight", low=0, neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1)
    noise_step: int = option(500, "steps of the diffusion whose noise is added, from 0", low=0, high=STEPS - 1)
    share: float | None = option(
        None, "factor of the noise in place of `noise_step`; none: by the step", low=0, high=1, source="ours"
    )
    seed: int = option(0, "seed of the noise, beside what the picture is", low=0, source="ours")

    def edit_pixels(self, pixels: Tensor, step: StepView) -> Tensor:
        if step.pictures is None:
            raise RuntimeError("vcd: the engine did not say which pixels belong to which picture")
        share = noise_share(self.noise_step) if self.share is None else self.share
        noise = picture_noise(pixels, step.pictures, self.seed)
        kept = math.sqrt(1 - share**2)
        return kept * pixels.float() + share * noise.float()

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("vcd: the engine gave no logits of the second stream")
        return contrast(logits, step.second_logits, self.alpha, self.beta, step.image_end >= 0)
