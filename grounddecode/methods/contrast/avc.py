"""AvisC: attentional vision calibration, a contrast with a stream that sees only the blind image tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import contrast, masked_mean_std
from grounddecode.method import Method, option
from grounddecode.view import StreamEdit

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class AvisC(Method):
    """Subtract what the model would say if it saw only the image tokens that draw attention without reason.

    Once a prompt is read, the attention of its last row picks the layers that look at the image most and, by their
    mean, the *blind* tokens: those at `lamb` standard deviations or more above the mean. A second stream reads the
    same prompt with all other image tokens overwritten (or hidden, `scheme="mask"`); at each step the logits become
    `(1 + alpha) * main - alpha * second` on the tokens that pass the plausibility cut, -inf elsewhere. Both streams
    read the token that was chosen. Source: "Don't Miss the Forest for the Trees" (arXiv 2405.17820), Eq. 3-10.

    Differs from the released code: every row has its own blind set, image positions and cut; greedy and beam search
    work; the blind set is `>= mean + lamb * std` as there (the paper's text says `>`); `mask` is the ablation of the
    paper that was never released. `alpha=0` switches the method off, its cut included. Cost: both streams run as one
    batch of twice the rows; the image is encoded once; twice the cache.

    Formula: per layer `AP_i = sum_j a_ij / sum` (Eq. 3-4); layers, most `AP` first, until they hold `gamma` (Eq. 5);
    `s_j` the mean of `a_ij` over them; blind where `s_j >= mean + lamb * std` (Eq. 6-7); `logit' = (1 + alpha) l -
    alpha l_blind` where `l >= ln(beta) + max l`, else -inf (Eq. 9-10).
    Shapes: `a` (layers, R, T) head mean of the last prompt row, R rows against T keys; logits (R, vocabulary).
    Units: `alpha` is a factor on logits, `beta` a share of the best token's probability, `gamma` a share of the image
    attention, `lamb` standard deviations.
    Ranges: see the fields; usual are `alpha` 2.5 to 3, `beta` 0.1, `gamma` 0.5, `lamb` 1.
    Errors: ValueError for a value outside its range; engines refuse models that read images through cross-attention.

    Example:
        >>> with ground(model, AvisC(alpha=1.0)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a cat on the']
    """

    name: ClassVar[str] = "avc"
    paper: ClassVar[str] = "arXiv:2405.17820 (ACL Findings 2025)"
    summary: ClassVar[str] = "contrasts with a stream that sees only the blind image tokens"

    alpha: float = option(2.5, "contrast weight; paper: 2.5 (LLaVA-1.5), 3 (InstructBLIP)", low=0, neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1, source="released")
    gamma: float = option(0.5, "share of the image attention that the chosen layers hold", low=0, open_low=True, high=1)
    lamb: float = option(1.0, "blind tokens lie this many standard deviations above the mean")
    scheme: Literal["zeros", "ones", "noise", "mask"] = option("zeros", "what replaces the other image tokens")

    def layer_set(self, mass: Tensor) -> Tensor:
        """Bool (layers, R): the fewest layers, most image attention first, that reach the share `gamma` (Eq. 5).

        Args:
            mass: (layers, R) image attention of each layer. k = #{cumulative share < gamma} + 1, at most all layers.
        """
        share = mass / mass.sum(dim=0, keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
        ordered, index = share.sort(dim=0, descending=True, stable=True)
        count = (ordered.cumsum(dim=0) < self.gamma).sum(dim=0, keepdim=True) + 1
        chosen = torch.arange(mass.shape[0], device=mass.device)[:, None] < count
        return torch.zeros_like(chosen.expand_as(share)).scatter(0, index, chosen.expand_as(share))

    def blind_tokens(self, attention: Tensor, image: Tensor) -> Tensor:
        """Bool (R, T): image tokens whose mean attention over the chosen layers stands out (Eq. 6-7).

        Args:
            attention: (layers, R, T) weights of the last prompt row, averaged over heads, not renormalised.
            image: (R, T) bool.
        """
        attention = attention.float() * image
        layers = self.layer_set(attention.sum(dim=-1))[..., None].to(attention.dtype)
        score = (attention * layers).sum(dim=0) / layers.sum(dim=0)
        mean, std = masked_mean_std(score, image)
        return image & (score >= mean + self.lamb * std)

    def second_stream(self, step: StepView) -> StreamEdit:
        if step.image_attention is None:
            raise RuntimeError("avc: the engine gave no attention of the last prompt row")
        return StreamEdit(keep=self.blind_tokens(step.image_attention, step.image), scheme=self.scheme)

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("avc: the engine gave no logits of the second stream")
        return contrast(logits, step.second_logits, self.alpha, self.beta, step.image_end >= 0)
