"""FLB: first logit boosting, what the model said first is added to what it says later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.maths import plausible_floor
from grounddecode.method import Method, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class FLB(Method):
    """Add the logits of the first step, whose row has the picture nearest, to those of every later step.

    The share grows with the answer and tends to `gamma`. What is added are the model's own logits of step `at`, before
    every logits processor and every other method; tokens that the plausibility cut of the step rules out stay out.
    Source: "First Logit Boosting" (Ha et al., CVPR 2026), Eq. 4-6 and its code.

    The cut acts at every step, also where nothing is added yet. The published gain compares sampling without a cut
    with sampling with one: compare with `sample+cut`. Part of the effect is that the first word of English answers
    ("The") gets likelier. For a yes/no question the answer is the first token, and nothing is added to that.
    `at` is ours: models that open with tokens of thinking say what they see later; up to that step nothing is added.
    `gamma=0` switches the method off, its cut included. Rows without an image are left alone. Cost: none to speak of;
    it keeps one row of logits a request.

    Formula: `l_t' = l_t + w l_at` where `l_t >= ln(beta) + max l_t`, else -inf, `w = gamma (1 - exp(-lamb (t - at)))`
    from step `at` on, 0 before; t counts generated tokens from 0.
    Shapes: logits and what is remembered (R, vocabulary) of R rows.
    Units: `gamma` is a factor on logits, `lamb` a rate a token, `beta` a share of the best token's probability, `at`
    counts tokens.
    Ranges: see the fields; the paper's are `gamma` 0.3 (0.19 of it at token 20), `lamb` 0.05, `beta` 0.1. No arXiv
    number is known.
    Errors: ValueError for a value outside its range; engines refuse to generate without a cache.

    Example:
        >>> with ground(model, FLB(gamma=1.0)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. The image also shows a blue cell phone']
    """

    name: ClassVar[str] = "flb"
    paper: ClassVar[str] = "First Logit Boosting (CVPR 2026)"
    summary: ClassVar[str] = "adds the logits of the first step to those of later ones"

    gamma: float = option(0.3, "share of the first logits that is tended to", low=0, neutral=0.0)
    lamb: float = option(0.05, "how fast it is reached, a token", low=0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1)
    at: int = option(0, "step whose logits are added; 0 is the first token of the answer", low=0, source="ours")

    def weight(self, answered: Tensor) -> Tensor:
        """(R,) share of the remembered logits after `answered` (R,) tokens of the answer."""
        return self.gamma * -torch.expm1(-self.lamb * (answered - self.at).clamp(min=0))

    def remember(self, logits: Tensor, step: StepView) -> Tensor:
        if step.state is None:
            return logits.detach().clone()
        return torch.where((step.answered == self.at)[:, None], logits, step.state)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        now = logits.float()
        mixed = torch.addcmul(now, self.weight(step.answered)[:, None], step.state.float())
        floor = plausible_floor(now, self.beta)
        if not step.every_row:
            concerned = (step.image_end >= 0)[:, None]
            mixed, floor = mixed.where(concerned, now), floor.masked_fill(~concerned, -torch.inf)
        return mixed.where(now >= floor, -torch.inf).to(logits.dtype)
