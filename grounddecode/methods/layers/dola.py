"""DoLa: decoding by contrasting layers, what an earlier layer says already is subtracted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import jensen_shannon, plausible_floor
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads, early_exits

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class DoLa(Method):
    """Subtract the logits of the earlier layer whose prediction is farthest from the last one's.

    The exit of a step and row is the one with the largest Jensen-Shannon divergence from the last layer, the earliest
    of equal ones; tokens that the plausibility cut rules out stay out. Source: "DoLa: Decoding by Contrasting Layers
    Improves Factuality in Large Language Models" (arXiv 2309.03883), Eq. 2-5.

    Made for text, and in published tables of vision-language models it gains nothing: it is here to be compared with.
    An exit is named by the layers passed; candidates are the even ones of the lower or the upper half of the depth,
    never the embeddings. Every exit goes through the final norm and has a choice of its own in every row, which the
    implementation that transformers had does not do. Raw logits are subtracted, `alpha` times (ours; the paper
    subtracts log-probabilities, which ranks tokens alike at 1). `alpha=0` switches the method off, its cut included.
    Rows without an image are left alone. Cost: one product with the head for all exits together.

    Formula: `l' = l - alpha l^m` where `l >= ln(beta) + max l`, else -inf; m the exit e with the largest
    `JSD(softmax l, softmax l^e)` (Eq. 2-5).
    Shapes: logits (R, vocabulary), those of the exits (exits, R, vocabulary).
    Units: `alpha` is a factor on logits, `beta` a share of the best token's probability, `exits` layers passed.
    Ranges: see the fields; the paper's `beta` is 0.1.
    Errors: ValueError for a value outside its range, or exits the model has not; engines refuse models whose final norm
    or head they do not find.

    Example:
        >>> with ground(model, DoLa(exits="low")):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. The image also shows a phone']
    """

    name: ClassVar[str] = "dola"
    paper: ClassVar[str] = "arXiv:2309.03883 (ICLR 2024)"
    summary: ClassVar[str] = "subtracts the logits of the earlier layer that is farthest off"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ

    alpha: float = option(1.0, "weight of the earlier layer", low=0, source="ours", neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1)
    exits: tuple[int, ...] | Literal["low", "high"] = option(
        "high", "layers passed at the exits; low, high: even ones of a half of the depth", low=1, filled=True
    )

    def at(self, n_layers: int) -> tuple[int, ...]:
        """The exits of a decoder of `n_layers` layers."""
        if not isinstance(self.exits, str):
            return early_exits(self.name, self.exits, n_layers)
        lower = self.exits == "low"
        halves = (e for e in range(2, n_layers, 2) if (2 * e < n_layers) == lower)
        return early_exits(self.name, halves, n_layers)

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=tuple(e - 1 for e in self.at(n_layers)))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        now, early = logits.float(), step.early(self.at(step.n_layers))
        farthest = jensen_shannon(now, early).max(dim=0).indices
        other = early[farthest, torch.arange(len(now), device=now.device)]
        contrasted = torch.where(now >= plausible_floor(now, self.beta), now - self.alpha * other, -torch.inf)
        return contrasted.where((step.image_end >= 0)[:, None], now).to(logits.dtype)
