"""LocoRE: local coherence reinforcement, more attention to the most recent tokens behind the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.method import Method, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class LocoRE(Method):
    """Raise the attention of the current token to its `window` predecessors behind the image by `1 + beta`.

    For the query at position i, the keys j with `i - window <= j < i` and `j > image end` get the gain `1 + beta`;
    its own key never does. It acts on the last prompt row and on every generated token, in every head. Source:
    "Hallucination Begins Where Saliency Drops" (arXiv 2601.20279), Eq. 8-10 and Algorithm 2; no code was released.

    Where the gain acts (`mode`) is open in the paper: `post_renorm` multiplies the weights and renormalises the row;
    `post` is the literal Eq. 9 without renormalisation (rows sum to more than 1); `score` multiplies the raw scores, so
    that negative ones fall.

    Formula: `w_ij' = G_ij w_ij / sum_k G_ik w_ik`, `G_ij = 1 + beta` for `i - window <= j < i` behind the
    image, else 1.
    Shapes: weights and scores (R, heads, T), float32; the gain (R, 1, T) is that of all heads.
    Units: `beta` is a factor minus one, `window` counts tokens, `layers` numbers from 0.
    Ranges: see the fields; usual are `beta` 0.15 to 0.2 and a `window` of 8.
    Errors: ValueError for a value outside its range, or a layer that the model has not (when it is attached).

    Example:
        >>> with ground(model, LocoRE(beta=0.3)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "locore"
    paper: ClassVar[str] = "arXiv:2601.20279 (ICLR 2026)"
    summary: ClassVar[str] = "raises attention to the most recent tokens"

    beta: float = option(0.15, "gain minus one; paper: 0.15 (LLaVA-1.5), 0.20 (Qwen2-VL)", low=0, neutral=0.0)
    window: int = option(
        8, "how many predecessors are raised; the paper gives no value", low=0, source="ours", neutral=0
    )
    mode: Literal["post_renorm", "post", "score"] = option("post_renorm", "where the gain acts", source="ours")
    history: Literal["after_image", "generated"] = option("after_image", "`generated` leaves prompt text alone")
    layers: tuple[int, ...] | None = option(None, "decoder layers (0-based) it acts on; all by default", source="ours")

    @property
    def is_key_gain(self) -> bool:
        return self.mode == "post_renorm"

    def named_layers(self) -> tuple[int, ...]:
        return self.layers or ()

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return self.layers is None or layer in self.layers

    def _gain(self, step: StepView) -> Tensor:
        """(R, 1, T): 1 + beta on the window, 1 elsewhere."""
        own = step.queries[:, None]
        before = torch.maximum(own - (self.window + 1), step.image_end[:, None])
        if self.history == "generated":
            before = before.clamp(min=step.answer_start - 1)
        raised = (step.keys > before) & (step.keys < own)
        return torch.ones_like(raised, dtype=torch.float32).masked_fill_(raised, 1.0 + self.beta)[:, None]

    def edit_scores(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        if self.mode != "score":
            return scores
        gain = self._gain(step)
        return torch.where(gain == 1.0, scores, scores * gain)  # a masked score is -inf and stays so

    def key_gain(self, step: StepView) -> Tensor | None:
        return self._gain(step) if self.mode == "post_renorm" else None

    def edit_weights(self, weights: Tensor, step: StepView, layer: int) -> Tensor:
        return weights * self._gain(step) if self.mode == "post" else weights
