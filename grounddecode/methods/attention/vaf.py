"""VAF: visual amplification fusion, scores on the image a little larger and those before it a little smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import scaled_span
from grounddecode.method import Method, Needs, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import Rows, StepView


@dataclass(frozen=True, kw_only=True)
class VAF(Method):
    """Amplify what the rows behind the image see of it in the middle layers, and weaken what they see before it.

    Enhanced are the image tokens of all images of a row, suppressed all tokens before the first of them (a marker of
    its beginning too); text between images is left alone, and so are rows before the end of the last image. Source:
    "ClearSight: Visual Signal Enhancement for Object Hallucination Mitigation" (arXiv 2503.13107) and its code.

    `form="released"` multiplies the scaled scores, as the code does: a negative score on an image token falls, and the
    token gets less attention. `form="weights"` multiplies the attention weights and renormalises the row, which is what
    amplifying attention says. The code knows one picture at a fixed place and no padding. `layers="auto"` is the
    released 9 to 14 of 32, scaled to other depths (ours). Factors of 1, or `layers=(0, 0)`, switch the method off.
    Cost: `weights` adds the logarithms of its factors inside the kernel; `released` computes the rows concerned
    directly.

    Formula: `z_j' = enhance * z_j` on image tokens, `suppress * z_j` before the first one (`released`), or
    `w_j' = g_j w_j / sum_k g_k w_k` with the same factors (`weights`).
    Shapes: scores and weights (R, heads, T) float32; factors (R, 1, T).
    Units: `enhance` and `suppress` are factors; `layers` lo;hi numbers from 0, hi not included.
    Ranges: see the fields; the released values are 1.15 and 0.95.
    Errors: ValueError for a value outside its range, or layers the model has not; engines refuse models that read
    images through cross-attention.

    Example:
        >>> with ground(model, VAF(enhance=1.5)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. There is a blue cell phone on the']
    """

    name: ClassVar[str] = "vaf"
    paper: ClassVar[str] = "arXiv:2503.13107 (CVPR 2025)"
    summary: ClassVar[str] = "larger scores on the image and smaller ones before it, in the middle layers"
    extra_needs: ClassVar[Needs] = Needs.IMAGE_KEYS

    enhance: float = option(1.15, "factor on image tokens", low=0, open_low=True, source="released")
    suppress: float = option(0.95, "factor on tokens before the image", low=0, open_low=True, source="released")
    form: Literal["released", "weights"] = option(
        "released", "what the factors multiply: scaled scores, or attention weights", source="released"
    )
    layers: tuple[int, ...] | Literal["auto"] = option(
        "auto",
        "decoder layers lo;hi it acts on, hi not included; auto: 9;15 of 32, scaled",
        low=0,
        span=True,
        source="released",
        neutral=(0, 0),
    )

    @property
    def rows(self) -> Rows:
        return "after_image"

    @property
    def is_key_gain(self) -> bool:
        return self.form == "weights"

    def is_neutral(self) -> bool:
        lo, hi = self.layers if isinstance(self.layers, tuple) else (0, 1)
        return lo == hi or self.enhance == self.suppress == 1.0

    def by_depth(self, n_layers: int) -> dict[str, tuple[int, ...]]:
        return {"layers": scaled_span(9, 15, n_layers)}

    def acts_on(self, layer: int, n_layers: int) -> bool:
        lo, hi = self.layers if isinstance(self.layers, tuple) else self.by_depth(n_layers)["layers"]
        return lo <= layer < hi

    def key_gain(self, step: StepView) -> Tensor | None:
        return step.of_image(_factors, self.enhance, self.suppress) if self.form == "weights" else None

    def edit_scores(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        return scores * step.of_image(_factors, self.enhance, self.suppress) if self.form == "released" else scores

    @property
    def is_sloped(self) -> bool:
        return self.form == "released"

    def key_slopes(self, step: StepView) -> Tensor:
        return step.of_image(_factors, self.enhance, self.suppress).expand(-1, 2, -1)


def _factors(image: Tensor, enhance: float, suppress: float) -> Tensor:
    """(R, 1, T)."""
    behind = image.cumsum(dim=-1) > 0
    return torch.where(image, enhance, torch.where(behind, 1.0, suppress))[:, None]
