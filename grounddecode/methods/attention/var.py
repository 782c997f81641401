"""VAR: visual attention redistribution, attention moves from sink tokens to the rest of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch

from grounddecode.maths import NOTHING, FactorRule, image_groups, move_mass
from grounddecode.method import Method, Needs, option
from grounddecode.view import Rows

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.calibration import Calibration
    from grounddecode.view import StepView

MASS_FLOOR = 0.2  # image mass below which a head does not look at the image


@dataclass(frozen=True, kw_only=True)
class VAR(Method):
    """Move attention from sink tokens to the image tokens that are none, in heads that look at the image.

    A token is a *sink* in a layer when one of the model's sink dimensions towers over the root mean square of the
    layer's input: `max_d |x_d| / RMS(x) >= tau`. A head of a query row is edited when its image mass is at least 0.2,
    at least the share `rho` of it lies on image tokens that are no sinks, and that mass is above 0. In such a head all
    sinks, in text and image, hand over the fraction `p` of their weight, and the image tokens that are no sinks get it
    in proportion to theirs; rows still sum to 1. Edited are all rows behind the image, of the prompt and generated, in
    every layer but the last. Source: "See What You Are Told: Visual Attention Sink in Large Multimodal Models"
    (arXiv 2503.03321). `rho`: 0.8 there for general tasks, 0.5 for hallucination (our default), 0.9 for
    vision-centric ones. Several images of a row count as one (ours).

    `variant="released"` follows the released code where its numbers depend on it: `p` is the fraction that *stays*
    (default 0.6: 0.4 moves), a sink is strictly above `tau`, a head needs a sink share of at most `rho`, layers are 2
    up to and with the last one, and only prompt tokens are sinks. Its defects are not followed: sinks of the first
    sample for the whole run, rows inside the image, mixed-up batches, layers without a visual sink left out. `p=0`
    switches the paper's form off, `p=1` the released one. Cost: the concerned rows are computed directly, no matrix of
    the whole sequence.

    Formula: with `t` and `g` a head's weight on image tokens that are no sinks and on sinks, `w_j' = w_j + p g w_j / t`
    for the former and `w_j' = (1 - p) w_j` for the latter, in heads as above; see `grounddecode.maths.move_mass`.
    Shapes: weights (R, heads, T) float32, sinks (R, T) bool; inputs of a layer (rows, tokens, width).
    Units: `p` and `rho` are shares of attention; `tau` is in root mean squares of a token; `sink_dims` numbers from 0.
    Ranges: see the fields; usual are `p` 0.6, `rho` 0.5 to 0.9, `tau` 20 at a width of 4096.
    Errors: ValueError for a value outside its range, for a model whose sink dimensions are not known, or that has none.

    Example:
        >>> with ground(model, VAR(sink_dims=(3,), tau=1.0)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "var"
    paper: ClassVar[str] = "arXiv:2503.03321 (ICLR 2025)"
    summary: ClassVar[str] = "moves attention from sink tokens to the rest of the image"
    extra_needs: ClassVar[Needs] = Needs.IMAGE_KEYS
    flags_by_layer: ClassVar[bool] = False

    p: float = option(0.6, "fraction of the sinks' weight that moves", low=0, high=1, neutral=0.0)
    rho: float = option(0.5, "least share of the image mass on tokens that are no sinks", low=0, high=1)
    tau: float | Literal["auto"] = option(
        "auto",
        "sink threshold; auto: the calibration's, or 20 * sqrt(width / 4096); paper: 20",
        low=0,
        open_low=True,
        source="ours",
    )
    sink_dims: tuple[int, ...] | None = option(
        None, "sink dimensions of the model; by default the calibration's", low=0, filled=True
    )
    sinks: Literal["all", "prompt"] = option("all", "`prompt`: generated tokens are never sinks")
    variant: Literal["paper", "released"] = option("paper", "`released`: see above")

    @property
    def rows(self) -> Rows:
        return "after_image"

    @property
    def moved(self) -> float:
        """Fraction of the sinks' weight that moves."""
        return self.p if self.variant == "paper" else 1.0 - self.p

    def is_neutral(self) -> bool:
        return self.moved == 0.0

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return layer < n_layers - 1 if self.variant == "paper" else layer >= 2

    def calibrated(self, calibration: Calibration | None) -> Self:
        dims, tau = self.sink_dims, self.tau
        if dims is None and calibration is not None:
            if not calibration.has_sinks:
                raise ValueError(
                    f"var: {calibration.checkpoint} has no attention sinks to take from (see its calibration), "
                    "use heads or locore, or give sink_dims"
                )
            dims, tau = calibration.sink_dims, calibration.tau if tau == "auto" else tau
        if dims is None:
            raise ValueError(
                "var: the sink dimensions of this model are not known, run `grounddecode calibrate --model MODEL "
                "--out FILE` and pass the calibration, or give sink_dims"
            )
        return replace(self, sink_dims=dims, tau=tau)

    def flag_tokens(self, hidden: Tensor, layer: int) -> Tensor:
        """Bool (rows, tokens): the sinks among the inputs (rows, tokens, width) of a layer; a zero token is none."""
        if self.sink_dims is None:
            raise ValueError("var: sink_dims is not set, give it or a calibration")
        width = hidden.shape[-1]
        if max(self.sink_dims) >= width:
            raise ValueError(f"var: sink dimension {max(self.sink_dims)} in a model of width {width}, calibrate anew")
        wide, norm = torch.promote_types(hidden.dtype, torch.float32), torch.linalg.vector_norm
        dims, bound = _constants(self.sink_dims, self._least(width), wide, hidden.device)
        named = hidden.index_select(-1, dims)
        peak = norm(named, ord=torch.inf, dim=-1, dtype=wide)
        share: Tensor = peak / norm(hidden, dim=-1, dtype=wide)  # nan of a zero token: no sink
        return share >= bound if self.variant == "paper" else share > bound

    def _least(self, width: int) -> float:
        """The least share of a sink's norm that lies in its largest sink dimension."""
        return (20.0 * math.sqrt(width / 4096) if self.tau == "auto" else self.tau) / math.sqrt(width)

    def flag_peaks(self, width: int) -> tuple[tuple[int, ...], float] | None:
        fits = self.variant == "paper" and self.sink_dims is not None and max(self.sink_dims) < width
        return (self.sink_dims, self._least(width)) if fits and self.sink_dims else None

    def same_flags(self, other: Method) -> bool:
        mine = (self.sink_dims, self.tau, self.variant)
        return isinstance(other, VAR) and mine == (other.sink_dims, other.tau, other.variant)

    @property
    def groups(self) -> int:
        return 4 if self.variant == "paper" and self.sinks == "all" else 0

    def key_groups(self, step: StepView) -> Tensor:
        """Text and image; two more for sinks in either."""
        return step.of_image(image_groups)

    def group_factors(self, masses: Tensor) -> Tensor:
        _, taken, text_sinks, image_sinks = masses.unbind(dim=-1)
        image = taken + image_sinks
        edited = (image >= MASS_FLOOR) & (taken >= max(self.rho, NOTHING) * image)
        share = self.moved * edited
        given = 1.0 - share
        raised = 1.0 + share * (text_sinks + image_sinks) / taken.clamp(min=torch.finfo(masses.dtype).tiny)
        return torch.stack([torch.ones_like(taken), raised, given, given], dim=-1)

    def factor_rule(self, n_heads: int) -> FactorRule:
        return FactorRule("moved", (self.moved, max(self.rho, NOTHING), MASS_FLOOR))

    def edit_weights(self, weights: Tensor, step: StepView, layer: int) -> Tensor:
        if step.flags is None:
            raise RuntimeError("var: the engine gave no token flags")
        sinks = step.flags
        if self.sinks == "prompt" or self.variant == "released":
            sinks = sinks & (step.keys < step.answer_start)
        least = self.rho if self.variant == "paper" else 1.0 - self.rho
        return move_mass(weights, sinks, step.of_image, share=self.moved, least=least, floor=MASS_FLOOR)


@lru_cache(maxsize=64)
def _constants(dims: tuple[int, ...], least: float, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both as tensors: numbers would be made some in every layer."""
    with torch.inference_mode(False):  # they outlive the caller's mode
        return torch.tensor(dims, device=device), torch.tensor(least, dtype=dtype, device=device)
