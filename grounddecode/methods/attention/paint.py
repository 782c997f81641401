"""PAINT: larger scores for the image tokens that the vision tower holds for local detail or for a summary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from grounddecode.maths import guided, outliers, raised, rank_among, slopes_of_raised
from grounddecode.method import Method, Needs, option
from grounddecode.view import StreamEdit

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView, VisionView


@dataclass(frozen=True, kw_only=True)
class PAINT(Method):
    """Raise the scores of image tokens that the vision tower holds for locally informative or for a summary.

    Per image: *local* are the `int(n * local_share)` patches that the first layer of the tower attends to most,
    *summary* those whose attention in the layer the language model reads is an upper outlier (Tukey: above
    Q3 + 1.5 (Q3 - Q1)); a summary patch is not local. In the layers `[lo, hi)`, on the last prompt row and every
    generated one, in all heads: `z + alpha |z|` on local tokens, `z + beta |z|` on summary tokens, on scaled scores
    before the softmax. With `gamma` other than 1 the log-probabilities become `gamma (s - u) + u`, `u` from a second
    stream that sees no image, on tokens at least `cut` times as probable as the best. Source: "Fixing Imbalanced
    Attention" / PAINT (arXiv 2501.12206) and its code; the contrast is that of PAI (arXiv 2407.21771).

    This is what the code does. The title's "head-specific" modulation by measured sensitivity is in no released file;
    `HeadModulation` is our reading of it. Mended: the spatial stream (`spatial_share`) ranks patches by attention
    *received* (the code's row sums are all 1); every image has its own sets, and so has every tile that the tower saw
    by itself; a token that stands for a window of patches has their mean; towers without a class token use the mean
    attention received; masked keys stay masked; the shares do act. Ours: `alpha` 0.5 (paper 0.7: from there on half of
    the published captions repeat themselves); no contrast by default (paper 1.1). The second stream reads the same
    prompt with all image tokens hidden, their positions kept, where the code leaves them out. Needs patches that map
    to image tokens: families in which learnt queries read them are refused. `layers=(0, 0)` switches the edit off.
    `local_tokens` and `summary_tokens` put constants in the place of the two sets: numbers of an image's tokens in
    reading order, from 0.

    Formula: `z_j' = z_j + a_j |z_j|`, `a_j` = `alpha` on local, `beta` on summary tokens, else 0; with a contrast
    `s' = gamma (s - u) + u` where `s >= ln(cut) + max s`, else -inf, `s` and `u` log-probabilities.
    Shapes: scores (R, heads, T) float32; sets (images, patches) bool; log-probabilities (R, vocabulary).
    Units: `alpha` and `beta` are shares of a score, `local_share` and `spatial_share` of an image's patches.
    Ranges: see the fields; usual are `alpha` 0.5 to 0.7, `beta` 0.4, `gamma` 1 to 1.1; `layers` (2, 32) of 32.
    Errors: ValueError for a value outside its range, for layers the model has not, or token sets that do not fit.

    Example:
        >>> with ground(model, PAINT(layers=(1, 6))):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. There is a red cup on the right']
    """

    name: ClassVar[str] = "paint"
    paper: ClassVar[str] = "arXiv:2501.12206 (CVPR 2025 workshop)"
    summary: ClassVar[str] = "raises the scores of local and summary image tokens"
    extra_needs: ClassVar[Needs] = Needs.VISION_ATTENTION | Needs.IMAGE_KEYS

    alpha: float = option(
        0.5, "added share of |score| on local tokens; paper: 0.7", low=0, high=1, open_high=True, source="ours"
    )
    beta: float = option(0.4, "added share of |score| on summary tokens", low=0, high=1, open_high=True)
    local_share: float = option(0.25, "share of the patches that are local", low=0, high=1)
    spatial_share: float = option(
        0.0, "share of the patches that the spatial stream adds; paper: 0 or 0.05", low=0, high=1
    )
    layers: tuple[int, ...] = option(
        (2, 32), "decoder layers lo;hi it acts on, hi not included", low=0, span=True, neutral=(0, 0)
    )
    local_tokens: tuple[tuple[int, ...], ...] | None = option(
        None,
        "local tokens in place of measured ones; numbers in an image, a set an image or one for all",
        low=0,
        filled=True,
        source="ours",
    )
    summary_tokens: tuple[tuple[int, ...], ...] | None = option(
        None,
        "summary tokens in place of measured ones; a set an image or one for all",
        low=0,
        filled=True,
        source="ours",
    )
    gamma: float = option(1.0, "weight of the text-only contrast; 1 is none; paper: 1.1", low=1, source="ours")
    cut: float = option(0.1, "plausibility cut of the contrast relative to the best token", low=0, high=1)

    @property
    def _edits(self) -> bool:
        return self.layers[0] < self.layers[1] and (self.alpha > 0 or self.beta > 0)

    def is_neutral(self) -> bool:
        return not self._edits and self.gamma == 1.0

    def active_needs(self) -> Needs:
        edit, contrast = Needs.ATTENTION_EDIT | self.extra_needs, Needs.SECOND_STREAM | Needs.LOGITS
        return (edit if self._edits else Needs.NOTHING) | (contrast if self.gamma != 1.0 else Needs.NOTHING)

    def acts_on(self, layer: int, n_layers: int) -> bool:
        return self._edits and self.layers[0] <= layer < self.layers[1]

    def token_sets(self, vision: VisionView) -> tuple[Tensor, Tensor]:
        """Bool (images, patches), twice: local and summary patches of each image."""
        there = vision.first >= 0
        count = there.sum(dim=-1, keepdim=True)
        summary = outliers(vision.last, there)
        if self.summary_tokens is not None:
            summary = there & _named("summary_tokens", self.summary_tokens, there)
        if self.local_tokens is not None:
            return there & _named("local_tokens", self.local_tokens, there) & ~summary, summary
        local = rank_among(vision.first, there) < (count * self.local_share).long()
        spatial = rank_among(vision.received, there) < (count * self.spatial_share).long()
        return there & (local | spatial) & ~summary, summary

    def _patch_gain(self, vision: VisionView) -> Tensor:
        """(images, patches)."""
        local, summary = self.token_sets(vision)
        return self.alpha * local.float() + self.beta * summary.float()

    def _gain(self, step: StepView) -> Tensor:
        """(R, 1, T): alpha on local tokens, beta on summary tokens, 0 elsewhere."""
        if step.vision is None:
            raise RuntimeError("paint: the engine gave no attention of the vision tower")
        gain = step.vision.once(self._patch_gain)
        image = step.vision.image_of_key
        of_key = gain[image.clamp(min=0), step.vision.patch_of_key]
        return of_key.masked_fill(image < 0, 0.0)[:, None, :]

    def edit_scores(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        return raised(scores, step.once(self._gain))

    @property
    def is_sloped(self) -> bool:
        return True

    def key_slopes(self, step: StepView) -> Tensor:
        return slopes_of_raised(step.once(self._gain))

    def second_stream(self, step: StepView) -> StreamEdit:
        return StreamEdit(keep=torch.zeros_like(step.image), scheme="mask")

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("paint: the engine gave no logits of the second stream")
        return guided(logits, step.second_logits, self.gamma, self.cut, step.image_end >= 0)


def _named(name: str, sets: tuple[tuple[int, ...], ...], there: Tensor) -> Tensor:
    """Bool (images, patches): the given patches of each image, of `there` (images, patches)."""
    images, patches = there.shape
    if len(sets) not in (1, images):
        raise ValueError(f"paint: {name} holds sets of {len(sets)} images, the prompt has {images}, give one for all")
    largest = max((token for tokens in sets for token in tokens), default=0)
    if largest >= patches:
        raise ValueError(f"paint: {name} names token {largest}, an image has tokens 0 to {patches - 1}")
    given = sets * images if len(sets) == 1 else sets
    return torch.tensor([[patch in tokens for patch in range(patches)] for tokens in given], device=there.device)
