"""SGRS: saliency-guided rejection sampling, candidates that rest too little on the preceding text are rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.coherence import coherence, target_layers
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads
from grounddecode.view import Judgement

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import Candidates, StepView


@dataclass(frozen=True, kw_only=True)
class SGRS(Method):
    """Take the first candidate whose saliency towards the preceding text is high enough for this request.

    The candidates of a step are the `top_k` most probable tokens. The saliency of candidate c is `|A * dL/dA|` of the
    last attention row, L the log-odds of c, averaged over heads, divided by the l2 norm of the row, averaged over the
    keys behind the image (the row's own included) and over the target layers. At most `max_resample` candidates are
    drawn; the first whose saliency reaches `alpha` times the mean of the last `window` accepted ones is taken and its
    saliency remembered. If none does, the most salient of all candidates is taken. A step without a threshold, such as
    the first, takes its first draw. Source: "Hallucination Begins Where Saliency Drops" (arXiv 2601.20279), Eq. 6-7,
    Algorithm 1.

    Differs from the released code, whose saliency is 0 or NaN: the candidate is not appended (its own row cannot
    receive a gradient), and log-odds replace the log-probability, which has the same direction but vanishes for
    confident tokens. Saliency that is no number (no key behind the image) is not compared: the draw is taken and not
    remembered.

    `draw="greedy"` draws the most probable first, so `alpha=0` is greedy decoding and counts as switched off;
    `draw="sample"` draws without replacement from the probabilities of the candidates, one number a candidate and step,
    with torch's global generator; on vLLM by the seed of the request, which at temperature 0 without one is 0. Either
    way the method chooses the token: its logit is raised far above the others, so greedy search and sampling of
    `generate` both take it, whatever their temperature; a logits processor that forbids it gets the next best token.
    Beam search, assisted decoding and a second stream are refused. Rows without an image are left alone.

    `layers`: `auto` is from half to three quarters of the depth (the paper says "middle-to-deep"), `released` the
    released code's 6 to 8 of 32, scaled. Cost: one backward pass for all candidates, through the layers above the
    lowest target.

    Formula: `S_c = mean over target layers and keys j behind the image of r_cj / ||r_c||`, `r_c = mean over heads of
    |A * dL_c/dA|` of the last row; c is accepted where `S_c >= alpha * mean of the last window accepted S` (Eq. 6-7).
    Shapes: saliency (R, K) of the K = `top_k` candidates of R rows; the history (R, window).
    Units: `alpha` is a share of a mean saliency; `top_k`, `max_resample` and `window` count tokens.
    Ranges: see the fields; usual are `alpha` 0.6, `top_k` 5, `max_resample` 3, `window` 5.
    Errors: ValueError for a value outside its range, or a layer that the model has not; RuntimeError where no gradient
    can be had (`torch.inference_mode`).

    Example:
        >>> with ground(model, SGRS(alpha=0.3)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "sgrs"
    paper: ClassVar[str] = "arXiv:2601.20279 (ICLR 2026)"
    summary: ClassVar[str] = "rejects candidates that rest too little on the preceding text"
    extra_needs: ClassVar[Needs] = Needs.GRADIENT

    alpha: float = option(0.6, "share of the recent mean saliency a candidate must reach", low=0, neutral=0.0)
    top_k: int = option(5, "how many candidates", low=1, high=256, source="released")
    max_resample: int = option(3, "how many of them are drawn at most", low=1, source="released")
    window: int = option(5, "how many accepted saliencies make the mean", low=1, high=4096, source="released")
    layers: tuple[int, ...] | Literal["auto", "released"] = option(
        "auto", "target layers (0-based); auto: from half to three quarters of the depth", filled=True, source="ours"
    )
    history: Literal["after_image", "generated"] = option("after_image", "`generated` leaves prompt text out")
    draw: Literal["greedy", "sample"] = option(
        "greedy", "order of the draws: by probability, or sampled", source="ours"
    )
    first_step: Literal["accept", "skip"] = option(
        "accept", "the first token is taken unseen; `skip` does not remember its saliency either", source="released"
    )
    append_fallback: bool = option(False, "remember the saliency of tokens that no draw was accepted for")

    def is_neutral(self) -> bool:
        return self.alpha == 0 and self.draw == "greedy"

    def named_layers(self) -> tuple[int, ...]:
        return self.layers if isinstance(self.layers, tuple) else ()

    def reads(self, n_layers: int) -> Reads:
        return Reads(
            candidates=self.top_k,
            saliency=target_layers(self.layers, n_layers, self.name),
            first_token=self.first_step == "accept",
            random=self.draw == "sample",
        )

    def order(self, log_probs: Tensor, uniform: Tensor | None) -> Tensor:
        """(R, K) long: column of each draw. `uniform` (R, K) random numbers in [0, 1) for `draw="sample"`.

        Sorting by log-probability plus Gumbel noise draws without replacement (the Gumbel-top-k trick).
        """
        if uniform is None:
            return torch.arange(log_probs.shape[1], device=log_probs.device).expand_as(log_probs)
        noise = -torch.log(-torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)))
        return (log_probs + noise).argsort(dim=-1, descending=True, stable=True)

    def scores(self, candidates: Candidates, step: StepView) -> Tensor:
        """(R, K) mean saliency of each candidate over the history and the target layers; NaN: nothing to go by."""
        if step.saliency is None:
            if self.first_step == "accept":
                raise RuntimeError("sgrs: the engine gave no saliency of the candidates")
            return torch.full_like(candidates.log_probs, torch.nan)
        scores = coherence(step.saliency, step, step.answer_start if self.history == "generated" else 0)
        if self.first_step == "skip":
            scores = scores.masked_fill((step.queries < step.prompt_length)[:, None], torch.nan)
        return scores

    def start(self, step: StepView) -> Tensor:
        """(R, window) accepted saliencies, newest last; NaN where there is none yet."""
        return torch.full((len(step.queries), self.window), torch.nan, device=step.queries.device)

    def judge(self, candidates: Candidates, step: StepView) -> Judgement:
        """The choice of each row, from its candidates' saliency and what it accepted so far in `step.state`."""
        score, history = self.scores(candidates, step), step.state
        forbidden = candidates.log_probs == -torch.inf  # fewer tokens are allowed than candidates are asked for
        drawn = self.order(candidates.log_probs, candidates.uniform)[:, : self.max_resample]
        low = score.gather(1, drawn) < self.alpha * history.nanmean(dim=1, keepdim=True)  # False where either is NaN
        low = low | forbidden.gather(1, drawn)
        accepted = ~low.all(dim=1)
        at = (~low).long().argmax(dim=1)
        best = score.nan_to_num(nan=-torch.inf).masked_fill(forbidden, -torch.inf).argmax(dim=1)
        chosen = torch.where(accepted, drawn.gather(1, at[:, None])[:, 0], best)
        taken = score.gather(1, chosen[:, None])
        kept = (accepted[:, None] | self.append_fallback) & taken.isfinite()
        history = torch.where(kept, torch.cat([history[:, 1:], taken], dim=1), history)
        before = low & (
            torch.arange(low.shape[1], device=low.device) < torch.where(accepted, at, low.shape[1])[:, None]
        )
        return Judgement(
            chosen=chosen,
            accepted=accepted,
            draws=torch.where(accepted, at + 1, drawn.shape[1]),
            state=history,
            scores=score,
            turned_down=torch.zeros_like(score, dtype=torch.bool).scatter(1, drawn, before),
        )
