"""NoLan: a contrast with a stream that reads no picture, the stronger the more alike both are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import contrast
from grounddecode.method import Method, option
from grounddecode.view import StreamInputs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class NoLan(Method):
    """Subtract what the model would say without its picture, the more the less the picture changes what it says.

    A second stream reads the text alone: image tokens, row breaks, begin and end markers of images are gone and the
    rest closes up. The weight of the contrast follows from how far both next-token distributions lie apart: where the
    picture hardly matters, the language prior is suppressed most. Both streams read the token that was chosen. Source:
    "NoLan" (arXiv 2602.22144).

    Differs from the released code: the divergence is each row's own, not one of the whole batch. `weight="fixed"` takes
    1 for the weight. No plausibility cut in the paper; `beta` is one (VCD's is 0.1). `kappa=0` switches the method off.
    Cost: a short second prompt; then one batch of twice the rows.

    Formula: `g = (KL(p|q) + KL(q|p)) / 2`, `a = kappa (tanh(1 / g) + 1)`, `logit' = (1 + a) l - a u`; p and q the
    distributions of l and of u, of the text alone. At `g = 0` a is `2 kappa`, and l stays as it is.
    Shapes: l, u (R, vocabulary), R rows.
    Units: g is in nats, `kappa` a factor on logits, `beta` a share of the best token's probability.
    Ranges: see the fields; usual is `kappa` 0.8.
    Errors: ValueError for a value outside its range, or a prompt that is nothing but its picture; engines refuse models
    that read images through cross-attention.

    Example:
        >>> with ground(model, NoLan()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. A cell phone is to the']
    """

    name: ClassVar[str] = "nolan"
    paper: ClassVar[str] = "arXiv:2602.22144"
    summary: ClassVar[str] = "contrasts with a stream without the picture, the more the more alike both are"

    kappa: float = option(0.8, "scale of the contrast weight, which is up to twice that", low=0, neutral=0.0)
    weight: Literal["data", "fixed"] = option("data", "from both distributions, or 1 at every step")
    beta: float = option(0.0, "plausibility cut relative to the best token; 0 is none", low=0, high=1)

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(pictures="none")

    def weights(self, main: Tensor, text: Tensor) -> Tensor:
        """(R, 1): the weight of the contrast of each row, from logits (R, vocabulary)."""
        p, q = main.float().log_softmax(dim=-1), text.float().log_softmax(dim=-1)
        apart = ((p.exp() - q.exp()) * (p - q)).nan_to_num(nan=0.0).sum(dim=-1, keepdim=True) / 2
        return self.kappa * (torch.tanh(1 / apart.clamp(min=torch.finfo(apart.dtype).tiny)) + 1)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("nolan: the engine gave no logits of the second stream")
        other, rows = step.second_logits, step.image_end >= 0
        return contrast(logits, other, self.weights(logits, other) if self.weight == "data" else 1.0, self.beta, rows)
