"""SID: a contrast with a stream that sees, behind its first layers, only the least attended image tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from grounddecode.maths import contrast, rank_among
from grounddecode.method import Method, option

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

_TOKENS = 576  # image tokens of the model that the published `n` is of, LLaVA-1.5


@dataclass(frozen=True, kw_only=True)
class SID(Method):
    """Subtract what the model would say if, behind its first layers, it saw only image tokens that it hardly looks at.

    A second stream reads the same prompt and the same answer. In its layers from `k` on it sees, of the image, only
    the tokens that the newest row looked at least in layer `k - 1`, by the mean over heads; a prompt's last row chooses
    for the whole prompt. Every step chooses anew, by what has been said so far; keys and values that earlier steps
    wrote stay as they are. At each step the logits become `(1 + alpha) * main - alpha * second` on the tokens that pass
    the plausibility cut, -inf elsewhere. Source: "Self-Introspective Decoding" (arXiv 2408.02032), its CT2S strategy
    and its code.

    Differs from the released code: every row has its own tokens; the cut holds in greedy decoding too, as in the paper;
    beams work; there is no random choice where `k` would be 0. `n` is of 576 image tokens as there, and scales with the
    number that a row has (ours). The code keeps 100 for POPE, 50 for captions. AvisC chooses once, and the tokens that
    are looked at most. `alpha=0` switches the method off, its cut included; `n=576` makes both streams equal. Cost:
    both streams run as one batch of twice the rows; the image is encoded once; twice the cache.

    Formula: `r_j` the weight of image token j in layer `k - 1`, newest row, mean over heads; *Keep* the
    `round(N n / 576)` of smallest r, the earlier of equal ones; in layers `k` and above keys of other image tokens are
    hidden from every row of the forward; `logit' = (1 + alpha) l - alpha l_sid` where `l >= ln(beta) + max l`.
    Shapes: r (R, T), R rows against T keys; logits (R, vocabulary).
    Units: `alpha` is a factor on logits, `beta` a share of the best token's probability.
    Ranges: see the fields; usual are `k` 2, `n` 50 to 100, `alpha` 1, `beta` 0.1.
    Errors: ValueError for a value outside its range, for a model of fewer than `k + 1` layers, or one whose layers do
    not all attend; generation has to keep its cache.

    Example:
        >>> with ground(model, SID()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "sid"
    paper: ClassVar[str] = "arXiv:2408.02032 (ICLR 2025)"
    summary: ClassVar[str] = "contrasts with a stream that sees the least attended image tokens"

    k: int = option(2, "first layer of the second stream that sees the kept image tokens only", low=1)
    n: int = option(
        100, "image tokens kept, of 576; released: 100 (POPE), 50 (captions)", low=0, high=_TOKENS, source="released"
    )
    alpha: float = option(1.0, "contrast weight", low=0, source="released", neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1, source="released")

    @property
    def keys_from(self) -> int:
        return self.k

    def require_decoder(self, n_layers: int, n_heads: int) -> None:
        super().require_decoder(n_layers, n_heads)
        if self.k >= n_layers:
            raise ValueError(f"sid: k is {self.k}, this model has layers 0 to {n_layers - 1}, choose one of them")

    def keep_keys(self, attention: Tensor, step: StepView) -> Tensor:
        count = (step.image.sum(dim=-1, keepdim=True) * (self.n / _TOKENS)).round()
        return step.image & (rank_among(-attention, step.image) < count)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("sid: the engine gave no logits of the second stream")
        return contrast(logits, step.second_logits, self.alpha, self.beta, step.image_end >= 0)
