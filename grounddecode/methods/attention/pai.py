"""PAI: pay attention to the image, larger scores for image tokens and guidance by the text alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from grounddecode.maths import guided, raised, slopes_of_raised
from grounddecode.method import Method, Needs, option
from grounddecode.view import StreamInputs

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView


@dataclass(frozen=True, kw_only=True)
class PAI(Method):
    """Raise the scores of all image tokens, and move away from what the model would say without its picture.

    In the layers `[lo, hi)`, on the last prompt row and every generated one, in all heads: `z + alpha |z|` on image
    tokens, on scaled and masked scores before the softmax. With `gamma` other than 1 the log-probabilities become
    `gamma (s - u) + u` on tokens that pass the plausibility cut, `u` from a second stream that reads the text alone:
    image tokens, row breaks, begin and end markers of images are gone and the rest closes up. That stream is not
    edited. Source: "Paying More Attention to Image" (arXiv 2407.21771), Eq. 3-6.

    `layers` is 2;32 of 32 in the paper; none is from 2 to the last one, whatever the depth. Defaults are those of the
    released README; its published captions use `alpha` 0.5, from where on long answers begin to repeat themselves.
    Larger scores act on negative ones too: all move up, and a share of 1 would make them 0. `alpha=0` leaves the
    guidance, `gamma=1` the edit alone, without second stream and cut; both together switch the method off. What comes
    out of the guidance is a mixture of log-probabilities, no logits: a temperature acts on that.

    Formula: `z_j' = z_j + alpha |z_j|` on image tokens; `s' = gamma (s - u) + u` where `s >= ln(beta) + max s`, else
    -inf; s and u log-probabilities.
    Shapes: scores (R, heads, T) float32; log-probabilities (R, vocabulary), R rows.
    Units: `alpha` is a share of a score, `gamma` a factor on differences of log-probabilities, `beta` a share of the
    best token's probability.
    Ranges: see the fields; usual are `alpha` 0.2 to 0.5, `gamma` 1.1.
    Errors: ValueError for a value outside its range or layers that the model has not; engines refuse models that read
    images through cross-attention.

    Example:
        >>> with ground(model, PAI()):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The image shows a kitchen. There is a blue cell phone on the']
    """

    name: ClassVar[str] = "pai"
    paper: ClassVar[str] = "arXiv:2407.21771 (ECCV 2024)"
    summary: ClassVar[str] = "raises the scores of image tokens and guides by the text alone"
    extra_needs: ClassVar[Needs] = Needs.IMAGE_KEYS
    all_switches: ClassVar[bool] = True

    alpha: float = option(
        0.2,
        "added share of |score| on image tokens; published captions: 0.5",
        low=0,
        high=1,
        open_high=True,
        source="released",
        neutral=0.0,
    )
    gamma: float = option(1.1, "weight of the text-only guidance; 1 is none", low=0, source="released", neutral=1.0)
    beta: float = option(0.1, "plausibility cut of the guidance relative to the best token", low=0, high=1)
    layers: tuple[int, ...] | None = option(
        None, "decoder layers lo;hi of the edit, hi not included; none: 2 to the last", low=0, span=True
    )

    def active_needs(self) -> Needs:
        guidance = Needs.SECOND_STREAM | Needs.OTHER_INPUTS | Needs.LOGITS
        off = (Needs.NOTHING if self.alpha > 0 else Needs.ATTENTION_EDIT) | (
            Needs.NOTHING if self.gamma != 1.0 else guidance
        )
        return self.needs() & ~off

    def acts_on(self, layer: int, n_layers: int) -> bool:
        lo, hi = (2, n_layers) if self.layers is None else self.layers
        return self.alpha > 0 and lo <= layer < hi

    def edit_scores(self, scores: Tensor, step: StepView, layer: int) -> Tensor:
        return raised(scores, step.of_image(_gain, self.alpha))

    @property
    def is_sloped(self) -> bool:
        return True

    def key_slopes(self, step: StepView) -> Tensor:
        return slopes_of_raised(step.of_image(_gain, self.alpha))

    def stream_inputs(self) -> StreamInputs:
        return StreamInputs(pictures="none")

    def adjust_logits(self, logits: Tensor, step: StepView) -> Tensor:
        if step.second_logits is None:
            raise RuntimeError("pai: the engine gave no logits of the second stream")
        return guided(logits, step.second_logits, self.gamma, self.beta, step.image_end >= 0)


def _gain(image: Tensor, alpha: float) -> Tensor:
    """(R, 1, T): alpha on image tokens, 0 elsewhere."""
    return alpha * image[:, None, :].float()
