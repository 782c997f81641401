"""VTI: visual and textual intervention, its textual half: outputs are turned towards what true captions have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

import torch

from grounddecode.maths import turned, unit_rows
from grounddecode.method import Method, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.calibration import Calibration
    from grounddecode.view import StepView

_STEP = 0.1  # of the released code: what `alpha` is a factor on


@dataclass(frozen=True, kw_only=True)
class VTI(Method):
    """Turn what every layer adds towards the direction in which true captions differ from invented ones.

    The directions are measured once for a checkpoint, `grounddecode calibrate --pairs`: of some 50 to 70 pairs of a
    true caption and one with invented objects, the difference of the last token behind every layer, its first principal
    component plus its mean. What the feed-forward network of a layer gives is turned towards the layer's direction and
    keeps its length, for every token of prompt and answer. Source: "Reducing Hallucinations in Vision-Language Models
    via Latent Space Steering" (arXiv 2410.15778) and its code.

    This is the half that acts in the language model. The other half steers each token of the vision tower by directions
    of masked pictures, 50 draws for each, and is not offered: `edit_hidden` has no site in a tower, and a direction a
    token exists only where all pictures have as many. The last layer's direction is that of the residual stream, where
    the code takes what the final norm makes of it. `alpha=0` switches the method off. Rows without an image are left
    alone. Cost: one turn a layer; nothing is read twice.

    Formula: `x' = |x| unit(unit(x) + 0.1 alpha unit(v))`; `v = u + mean_i d_i`, d_i the differences of the pairs in all
    layers at once, u their first right-singular vector once centred, with the sign that its largest score is positive.
    Shapes: outputs (R, tokens, width), directions (layers, width).
    Units: `alpha` is a factor on a tenth of an output's length.
    Ranges: see the fields; the paper's `alpha` is 0.9, the code's own default 0.8.
    Errors: ValueError for a value outside its range, or where nobody measured directions of this checkpoint; engines
    refuse models whose feed-forward networks they do not find.

    Example:
        >>> with ground(model, VTI(directions=((1.0,) + (0.0,) * 127,) * 6)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "vti"
    paper: ClassVar[str] = "arXiv:2410.15778 (ICLR 2025)"
    summary: ClassVar[str] = "turns feed-forward outputs towards what true captions have"

    alpha: float = option(0.9, "how far outputs are turned, in tenths of their length", low=0, neutral=0.0)
    directions: tuple[tuple[float, ...], ...] | None = option(
        None, "direction of every layer; by default the calibration's", filled=True, source="ours", compare=False
    )

    def calibrated(self, calibration: Calibration | None) -> Self:
        if self.directions is not None:
            return self
        if calibration is None or not calibration.directions:
            raise ValueError(
                "vti: no directions of this model are known, run `grounddecode calibrate --model MODEL --pairs FOLDER "
                "--out FILE` and pass the calibration"
            )
        return replace(self, directions=calibration.directions)

    def require_decoder(self, n_layers: int, n_heads: int) -> None:
        self.require_layers(n_layers)
        if self.directions is not None and len(self.directions) != n_layers:
            raise ValueError(f"vti: directions has {len(self.directions)} rows, this model has {n_layers} layers")

    def start(self, step: StepView) -> Tensor:
        """(R, layers, width) directions of length 1, the same for every row."""
        if self.directions is None:
            raise ValueError("vti: directions is not set, give it or a calibration")
        units = unit_rows(torch.tensor(self.directions, device=step.queries.device))
        return units.expand(len(step.queries), *units.shape)

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        towards = step.state[:, layer, None].to(output.device)
        if towards.shape[-1] != output.shape[-1]:
            raise ValueError(
                f"vti: directions has rows of {towards.shape[-1]} numbers, this model's hidden states have "
                f"{output.shape[-1]}"
            )
        return turned(output, towards, _STEP * self.alpha, extra=False)
