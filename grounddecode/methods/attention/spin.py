"""SPIN: what the heads that look at the image least give is turned down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import FactorRule, image_groups
from grounddecode.method import Method, Needs, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class SPIN(Method):
    """Keep the heads of a layer that look at the image most, and damp what the others give.

    In each layer and query row the heads are ranked by their image mass, or by the sum of their scores on the image
    (`score="raw"`, as released: another ranking). The `int(rho * H)` first are kept; what the others give is
    multiplied by `damp` before the output projection, and nothing is renormalised. Source: "Mitigating Hallucinations
    in Vision-Language Models through Image-Guided Head Suppression" (arXiv 2505.16411) and its code.

    Ranked are the model's own scores, before any other method edits them, and damped is what those leave: SPIN
    composes with every other attention edit. Of equal heads the lower one is kept. Query heads count, also where they
    share keys. A row that sees no image token in a layer (sliding windows) keeps all heads there, and so do rows
    without an image. The released code, with several prompts in a batch, damps the last rows of the last one only.
    `damp=1` or `rho=1` switches the method off. Cost: the rows concerned are computed directly; no other forward.

    Formula: `o_h' = damp * o_h` for the heads h outside of the `int(rho H)` largest `a_h = sum_j A_hj` over the image
    keys j the row sees, A the weights (`mass`) or the scaled scores (`raw`).
    Shapes: scores (R, heads, T) float32; gains (R, heads).
    Units: `rho` is a share of the heads, `damp` a factor on what a head gives; `layers` lo;hi, hi not included.
    Ranges: see the fields; released are `rho` 0.95 and `damp` 0.08 for captions, 0.8 and 0.1 for POPE, 0.7 and 0.08 in
    layers 0 to 20 for Qwen-VL.
    Errors: ValueError for a value outside its range, or layers the model has not; engines refuse models that read
    images through cross-attention.

    Example:
        >>> with ground(model, SPIN(rho=0.8)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a cup. There is to the right of a cat']
    """

    name: ClassVar[str] = "spin"
    paper: ClassVar[str] = "arXiv:2505.16411 (EMNLP 2025)"
    summary: ClassVar[str] = "damps the heads that look at the image least"
    extra_needs: ClassVar[Needs] = Needs.IMAGE_KEYS
    across_heads: ClassVar[bool] = True

    rho: float = option(
        0.95, "share of the heads that are kept; POPE: 0.8", low=0, high=1, source="released", neutral=1.0
    )
    damp: float = option(
        0.08, "factor on what the other heads give; POPE: 0.1", low=0, high=1, source="released", neutral=1.0
    )
    score: Literal["mass", "raw"] = option("mass", "what heads are ranked by: attention weights, or scores")
    rows: Literal["last", "after_image"] = option(
        "last", "query rows it acts on, as in LocoRE or VAR", source="released"
    )
    layers: tuple[int, ...] | None = option(
        None, "decoder layers lo;hi it acts on, hi not included; all by default", low=0, span=True, source="released"
    )

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return self.layers is None or self.layers[0] <= layer < self.layers[1]

    @property
    def groups(self) -> int:
        return 2 if self.score == "mass" else 0

    def key_groups(self, step: StepView) -> Tensor:
        return step.of_image(image_groups)

    def group_factors(self, masses: Tensor) -> Tensor:
        return self._gain(masses[..., 1], masses[..., 1].amax(dim=-1, keepdim=True) > 0)[..., None].expand_as(masses)

    def factor_rule(self, n_heads: int) -> FactorRule:
        return FactorRule("least", (int(self.rho * n_heads), self.damp))

    def head_gain(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        image = step.of_image(_alone)
        if self.score == "mass":
            masses = (scores.softmax(dim=-1) * image).sum(dim=-1)
            return self._gain(masses, masses.amax(dim=-1, keepdim=True) > 0)
        there = image & (scores > -torch.inf)
        return self._gain(scores.masked_fill(~there, 0.0).sum(dim=-1), there.any(dim=-1))

    def _gain(self, sums: Tensor, sees: Tensor) -> Tensor:
        """(R, heads) from what each head is ranked by, and whether it sees an image token."""
        least = sums.argsort(dim=-1, descending=True, stable=True)[..., int(self.rho * sums.shape[-1]) :]
        return torch.ones_like(sums).scatter(-1, least, self.damp).where(sees, 1.0)


def _alone(image: Tensor) -> Tensor:
    """(R, 1, T)."""
    return image[:, None]
