"""Head modulation: more image attention in the heads that look at the image most."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch

from grounddecode.maths import FactorRule, image_groups
from grounddecode.method import Method, Needs, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.calibration import Calibration
    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class HeadModulation(Method):
    """Multiply the image attention of each head by a gain that grows with the head's visual sensitivity.

    The sensitivity of a head is its image mass, on the row itself (`sensitivity="row"`) or as the mean over a
    calibration set (`"calibrated"`). The gain is `1 + alpha * rank / H`, rank H for the most sensitive of the H heads
    of the layer, 1 for the least, ties sharing the higher rank. The weights of image tokens are multiplied and the
    row is divided by its sum, so an image mass m becomes at most (1 + alpha) m / (1 + alpha m): the text keeps its
    proportions and cannot be driven out, as it can by edits of the scores. `gains` gives the gains themselves, one row
    of heads a layer or one row for all of them; `alpha` and `sensitivity` are then not read.

    Ours: the paper "Fixing Imbalanced Attention" (arXiv 2501.12206) announces head-specific modulation by measured
    sensitivity but publishes no formula, and its code has none. The published neighbour that acts by head is SPIN,
    which damps the heads with the least image score.

    Formula: `w_hj' = g_hj w_hj / sum_k g_hk w_hk`, `g_hj = 1 + alpha * rank_h / H` on image tokens, else 1.
    Shapes: weights (R, heads, T) float32; sensitivities (R, heads), or (layers, heads) from a calibration.
    Units: gains are factors; sensitivities are shares of a row's attention; `layers` numbers from 0.
    Ranges: see the fields; ours is an `alpha` of 0.5.
    Errors: ValueError for a value outside its range, for rows or heads that are not the model's, or a sensitivity that
    nobody measured.

    Example:
        >>> with ground(model, HeadModulation(alpha=1.0)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. There is a blue cell phone on the']
    """

    name: ClassVar[str] = "heads"
    paper: ClassVar[str] = "ours, after arXiv:2501.12206"
    summary: ClassVar[str] = "raises image attention in visually sensitive heads"
    extra_needs: ClassVar[Needs] = Needs.IMAGE_KEYS
    across_heads: ClassVar[bool] = True

    alpha: float = option(0.5, "gain of the most sensitive head minus one", low=0, source="ours", neutral=0.0)
    sensitivity: Literal["row", "calibrated"] = option("row", "where a head's sensitivity is measured", source="ours")
    rows: Literal["last", "after_image"] = option("last", "query rows it acts on, as in LocoRE or VAR", source="ours")
    layers: tuple[int, ...] | None = option(None, "decoder layers (0-based) it acts on; all by default", source="ours")
    head_sensitivity: tuple[tuple[float, ...], ...] | None = option(
        None, "sensitivity of every layer's heads; by default the calibration's", source="ours"
    )
    gains: tuple[tuple[float, ...], ...] | None = option(
        None,
        "constant gains in place of ranks; of every layer's heads, or one row for all layers",
        low=0,
        filled=True,
        source="ours",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gains is not None and not all(self.gains):
            raise ValueError(f"heads: gains is {self.gains}, give one number a head in every row")
        if self.gains is not None and self.head_sensitivity is not None:
            raise ValueError("heads: gains and head_sensitivity are both given, give one of them")

    def is_neutral(self) -> bool:
        return self.alpha == 0 if self.gains is None else all(gain == 1 for row in self.gains for gain in row)

    def named_layers(self) -> tuple[int, ...]:
        return self.layers or ()

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return self.layers is None or layer in self.layers

    def require_decoder(self, n_layers: int, n_heads: int) -> None:
        self.require_layers(n_layers)
        for name, rows, fits in (
            ("gains", self.gains or (), (1, n_layers)),
            ("head_sensitivity", self.head_sensitivity or (), (n_layers,)),
        ):
            if rows and (len(rows) not in fits or any(len(row) != n_heads for row in rows)):
                raise ValueError(
                    f"heads: {name} has {len(rows)} rows of {len(rows[0])}, this model has {n_layers} layers of "
                    f"{n_heads} heads"
                )

    def calibrated(self, calibration: Calibration | None) -> Self:
        if self.sensitivity == "row" or self.head_sensitivity is not None or self.gains is not None:
            return self
        if calibration is None or not calibration.head_sensitivity:
            raise ValueError(
                "heads: the sensitivity of this model's heads is not known, run `grounddecode calibrate --model MODEL "
                "--out FILE` and pass the calibration, or use sensitivity='row'"
            )
        return replace(self, head_sensitivity=calibration.head_sensitivity)

    def extra(self, sensitivity: Tensor) -> Tensor:
        """(..., heads) gains minus one, of heads with the given sensitivities (..., heads)."""
        rank = (sensitivity[..., None, :] <= sensitivity[..., :, None]).sum(dim=-1)
        return rank * (self.alpha / sensitivity.shape[-1])

    def _sensitivity(self, image_mass: Tensor, layer: int) -> Tensor:
        """(R or 1, heads)."""
        if self.sensitivity == "row":
            return image_mass
        if self.head_sensitivity is None:
            raise ValueError("heads: head_sensitivity is not set, give it or a calibration")
        return image_mass.new_tensor(self.head_sensitivity[layer])[None]

    def _constant(self, image_mass: Tensor, layer: int) -> Tensor:
        """(1, heads) gains minus one, as given."""
        rows = self.gains or ()
        return image_mass.new_tensor(rows[layer if len(rows) > 1 else 0])[None] - 1.0

    @property
    def groups(self) -> int:
        return 2 if self.gains is None and self.sensitivity == "row" else 0

    def key_groups(self, step: StepView) -> Tensor:
        return step.of_image(image_groups)

    def group_factors(self, masses: Tensor) -> Tensor:
        image = masses[..., 1]
        extra = self.extra(image)
        divisor = 1.0 + extra * image
        return torch.stack([1.0 / divisor, (1.0 + extra) / divisor], dim=-1)

    def factor_rule(self, n_heads: int) -> FactorRule:
        return FactorRule("ranked", (self.alpha / n_heads,))

    def edit_weights(self, weights: Tensor, step: StepView, layer: int) -> Tensor:
        parts = step.of_image(_parts)
        total, image = torch.bmm(weights, parts.mT).unbind(dim=-1)  # sums of each row, (R, heads)
        extra = self._constant(image, layer) if self.gains else self.extra(self._sensitivity(image, layer))
        divisor = torch.addcmul(total, extra, image).clamp(min=torch.finfo(weights.dtype).tiny)
        return weights * torch.bmm(torch.stack([1.0 / divisor, extra / divisor], dim=-1), parts)


def _parts(image: Tensor) -> Tensor:
    """(R, 2, T): all keys, image keys."""
    image = image.to(torch.float32)
    return torch.stack([torch.ones_like(image), image], dim=1)
