"""M3ID: a contrast with a stream that reads no picture, growing with the length of the answer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.maths import contrast
from grounddecode.method import Method, option
from grounddecode.view import StreamInputs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

_MOST = 60.0  # exponent beyond which a float32 logit times the weight has no place any more


@dataclass(frozen=True, kw_only=True)
class M3ID(Method):
    """Subtract what the model would say without its picture, the more the longer the answer is.

    The more tokens stand behind the picture, the less the model rests on it. A second stream reads the text alone:
    image tokens, row breaks, begin and end markers of images are gone and the rest closes up. With t tokens generated,
    `(1 - g) / g` of the difference between both is added, `g = exp(-lamb * t)`. Both streams read the token that was
    chosen. Source: "Multi-Modal Hallucination Control by Visual Information Grounding" (arXiv 2403.14003), Eq. 5-9.

    The weight is 0 at the first token, 1 at t = 35, 6.4 at t = 100 and grows without bound: the plausibility cut is
    what keeps long captions alive. The cut, of VCD, is in every public re-implementation and not in the paper; it
    holds at the first token too, where the weight does nothing: yes/no questions are answered as without the method.
    Ours: `cap`. The paper adds the contrast only where the model is unsure; no released code does, and the paper's
    value was not seen: `gate=1` is always, below it rows whose best probability reaches `gate` keep their logits
    whole. `lamb=0` switches the method off, its cut included. Cost: a short second prompt; then one batch of twice
    the rows.

    Formula: `w = min(exp(lamb t) - 1, cap)`, `logit' = l + w (l - u)` where `l >= ln(beta) + max l`, else -inf; u of
    the text alone.
    Shapes: l, u (R, vocabulary), R rows.
    Units: `lamb` is per token, `beta` a share of the best token's probability, `gate` a probability.
    Ranges: see the fields; usual are `lamb` 0.01 to 0.05, `beta` 0.1.
    Errors: ValueError for a value outside its range, or a prompt that is nothing but its picture; engines refuse models
    that read images through cross-attention.

    Example:
        >>> with ground(model, M3ID()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a cell phone on']
    """

    name: ClassVar[str] = "m3id"
    paper: ClassVar[str] = "arXiv:2403.14003 (CVPR 2024)"
    summary: ClassVar[str] = "contrasts with a stream without the picture, the more the longer the answer"

    lamb: float = option(0.02, "how fast the contrast grows per token", low=0, neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1, source="released")
    gate: float = option(
        1.0,
        "rows whose best probability reaches it keep their logits; 1: the contrast always acts",
        low=0,
        open_low=True,
        high=1,
        source="released",
    )
    cap: float | None = option(None, "largest weight of the contrast; none: it grows on", low=0, source="ours")

    def weight(self, step: int) -> float:
        """The weight of the contrast with `step` tokens generated."""
        grown = math.expm1(min(self.lamb * step, _MOST))
        return grown if self.cap is None else min(grown, self.cap)

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(pictures="none")

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("m3id: the engine gave no logits of the second stream")
        rows = step.image_end >= 0
        if self.gate < 1:
            rows = rows & (torch.softmax(logits.float(), dim=-1).amax(dim=-1) < self.gate)
        return contrast(logits, step.second_logits, self.weight(step.step), self.beta, rows)
