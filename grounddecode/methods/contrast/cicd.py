"""CICD: cross-image contrastive decoding, a contrast with streams that read other pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.maths import contrast
from grounddecode.method import Method, option
from grounddecode.view import References, StreamInputs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class CICD(Method):
    """Subtract what the model would say of other pictures: what is left is what this one shows.

    `references` further streams read the same prompt, each with a picture of the bank in the place of every picture of
    the request, resized to it. What they have in common is the prior of prompt and answer, undistorted by noise. Their
    mean probability is contrasted with the main stream on tokens that pass the plausibility cut, -inf elsewhere. All
    streams read the token that was chosen. In the spirit of "Cross-Image Contrastive Decoding" (arXiv 2505.10634), of
    which the abstract was seen and not the formula: all of this is ours, the values too.

    `bank` is "lab" (drawn scenes), a folder of pictures, or a `.pt` file of normalised ones, see `References`. Which
    references a request has is drawn by `seed` and its own pictures: a batch answers as its rows do, and never with the
    picture of another request. Where a picture is read in tiles, each tile shows the whole reference. `gate` leaves
    out steps at which the references disagree: the contrast acts where the Jensen-Shannon divergence between their
    distributions is at most `gate`. A reference that shows an object which is asked for pushes a yes/no answer to
    yes: for those questions take VCD. `alpha=0` switches the method off, its cut included. Cost: a prompt a reference,
    through the vision tower too; then one batch of 1 + `references` times the rows; as many caches. What prompts begin
    with, their reference included, is read once and kept for all rows and requests that begin alike, up to 1 GiB, as
    long as the method stays on the model: of a prompt they then read what stands behind the picture. A bank with few
    pictures is soon known. Not so where rows end their pictures in different columns, or the cache has a window.

    Formula: `c = log mean_m softmax(l^m)`, `logit' = (1 + alpha) log softmax(l) - alpha c` where
    `l >= ln(beta) + max l`, else -inf; a mixture of log-probabilities.
    Shapes: l (R, vocabulary), l^m (R, references, vocabulary), R rows.
    Units: `alpha` is a factor on log-probabilities, `beta` a share of the best token's probability, `gate` in nats.
    Ranges: see the fields; usual are `alpha` 0.25 to 0.5, `references` 1 to 4, `gate` 0.05.
    Errors: ValueError for a value outside its range, a bank that is not there or too small, a model without a processor
    or whose pixel values have no known layout; engines refuse models that read their pictures beforehand, or through
    cross-attention.

    Example:
        >>> with ground(model, CICD(references=4)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a cup on the']
    """

    name: ClassVar[str] = "cicd"
    paper: ClassVar[str] = "arXiv:2505.10634 (in its spirit)"
    summary: ClassVar[str] = "contrasts with streams that read other pictures"

    alpha: float = option(0.5, "contrast weight", low=0, source="ours", neutral=0.0)
    beta: float = option(0.1, "plausibility cut relative to the best token", low=0, high=1, source="ours")
    references: int = option(2, "other pictures a request is contrasted with, each in a stream", low=1, source="ours")
    bank: str = option("lab", "where they come from, lab, a folder of pictures, or a .pt file", source="ours")
    gate: float | None = option(
        None, "the contrast acts where references disagree at most so much; none: always", low=0, source="ours"
    )
    seed: int = option(0, "seed of the choice, beside what the pictures are", low=0, source="ours")

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(pictures=References(bank=self.bank, count=self.references, seed=self.seed))

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("cicd: the engine gave no logits of the other streams")
        others = step.second_logits.float().view(len(logits), -1, logits.shape[-1]).log_softmax(dim=-1)
        prior = others.logsumexp(dim=1) - math.log(others.shape[1])
        rows = step.image_end >= 0
        if self.gate is not None:
            rows = rows & (disagreement(others, prior) <= self.gate)
        mixed = contrast(logits.float().log_softmax(dim=-1), prior, self.alpha, self.beta, rows)
        return torch.where(rows[:, None], mixed.to(logits.dtype), logits)


def disagreement(others: Tensor, mean: Tensor) -> Tensor:
    """(R,): Jensen-Shannon divergence in nats, mean over the distributions of theirs from their mean.

    Args:
        others: (R, streams, vocabulary) log-probabilities.  mean: (R, vocabulary), the log of their mean.
    """
    apart = (others - mean[:, None]).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return (others.exp() * apart).sum(dim=-1).mean(dim=1)
