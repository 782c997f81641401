"""MemVR: brings the image back into one feed-forward network, once an early layer is unsure of the next token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from grounddecode.maths import possible, scaled_span
from grounddecode.method import Method, Needs, option
from grounddecode.reads import Reads
from grounddecode.view import Phase

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.view import StepView

_TOP = 10  # tokens whose early probabilities say how sure a layer is


@dataclass(frozen=True, kw_only=True)
class MemVR(Method):
    """Look at the image once more, in the layer behind the first one that is unsure of the next token.

    Behind each layer of a middle range, the ten most probable tokens of the early exit at the newest row give an
    entropy between 0 and 1. At the first layer where it is above `tau`, the next layer's feed-forward network is mixed
    with what its input recalls of the image: each image feature, as it enters layer 0, weighed by its product with that
    input. At most once in a forward; not at all where every layer is sure. The last row of a prompt decides for all of
    its tokens, and each later row for itself. Source: "Look Twice Before You Answer: Memory-Space Visual Retracing"
    (arXiv 2410.03577) and its code.

    Differs from the released code: every row has its own entropy, layer, sizes and images, and padding counts for
    nothing; all images of a row are recalled, not the last one alone; no layer has a share of its own. The code scales
    the features to the size of the network's weights first, which cancels in the matching of sizes. The paper writes an
    `activation` around the products, the code has none. `layers="auto"` is the released 6 to 15 of 32, scaled to other
    depths (ours). `r=0` or `tau=1` switch the method off. Cost: one product with the unembedding for each layer looked
    behind; on a CPU, none behind the layer where all rows have found theirs.

    Formula: `H_l = -sum_i p_i ln p_i / ln 10`, p the softmax over the ten largest early logits behind layer l; at the
    first l with `H_l > tau`, in layer l + 1: `D = sum_i phi(<x, z_i>) z_i`, `out = (1 - r) ffn + r D |ffn| / |D|`, x
    what the network reads, z the image features, |.| the mean absolute value over the tokens that are decided for.
    Shapes: ffn and x (R, tokens, width); z (R, N, width); H (R,).
    Units: `r` is a share of the output, `tau` of the largest possible entropy; `layers` lo;hi numbers from 0, hi not
    included.
    Ranges: see the fields; usual are `r` 0.12 (0.3 for captions) and `tau` 0.75.
    Errors: ValueError for a value outside its range, for layers the model has not, for a prompt that is read in pieces,
    for generation without a cache, and for drafted tokens.

    Example:
        >>> with ground(model, MemVR(tau=0.3)):
        ...     tokens = model.generate(**inputs, max_new_tokens=14, do_sample=False)
        >>> processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
        ['The photo was taken in a kitchen. There is a blue cell phone']
    """

    name: ClassVar[str] = "memvr"
    paper: ClassVar[str] = "arXiv:2410.03577 (ICML 2025)"
    summary: ClassVar[str] = "recalls the image in one feed-forward network when an early layer is unsure"
    extra_needs: ClassVar[Needs] = Needs.HIDDEN_READ | Needs.IMAGE_FEATURES | Needs.IMAGE_KEYS

    r: float = option(
        0.12, "share of the recalled image; released: 0.31 for captions", low=0, high=1, source="released", neutral=0.0
    )
    tau: float = option(0.75, "entropy above which a layer is unsure", low=0, high=1, source="released", neutral=1.0)
    layers: tuple[int, ...] | Literal["auto"] = option(
        "auto",
        "decoder layers lo;hi behind which it looks, hi not included; auto: 6;16 of 32, scaled",
        low=0,
        span=True,
        source="released",
    )
    activation: Literal["identity", "relu", "silu"] = option(
        "identity", "what the products with image features go through; paper: one that it does not name"
    )

    def _span(self, n_layers: int) -> tuple[int, int]:
        lo, hi = self.layers if isinstance(self.layers, tuple) else scaled_span(6, 16, n_layers)
        return lo, hi

    def acts_on(self, layer: int, n_layers: int) -> bool:
        lo, hi = self._span(n_layers)
        return lo < layer <= hi

    def require_layers(self, n_layers: int) -> None:
        lo, hi = self._span(n_layers)
        if lo == hi or hi >= n_layers:
            raise ValueError(
                f"memvr: layers is {(lo, hi)}, it looks behind layers {lo} to {hi - 1} and recalls in the next one, "
                f"this model has layers 0 to {n_layers - 1}"
            )

    def reads(self, n_layers: int) -> Reads:
        return Reads(hidden=tuple(range(*self._span(n_layers))))

    def entropy(self, logits: Tensor) -> Tensor:
        """(R,) in [0, 1]: of the ten most probable tokens of logits (R, vocabulary), as a share of the largest."""
        best = logits.float().topk(min(_TOP, logits.shape[-1]), dim=-1).values.log_softmax(dim=-1)
        return -(best.exp() * best).sum(dim=-1) / math.log(best.shape[-1])

    def _entropy(self, step: StepView, layer: int) -> Tensor:
        return self.entropy(step.early((layer + 1,))[0])

    def _found(self, step: StepView, layer: int) -> Tensor:
        """Bool (R,): behind `layer`, or one before it, the row was unsure."""
        if layer < self._span(step.n_layers)[0]:
            return step.image_end < 0
        before = step.once(self._found, layer - 1)
        return before | (step.once(self._entropy, layer) > self.tau) if possible(~before) else before

    def _recalls(self, step: StepView, layer: int) -> Tensor:
        """Bool (R,): behind `layer` the row was unsure for the first time."""
        return step.once(self._found, layer) & ~step.once(self._found, layer - 1)

    def recalled(self, output: Tensor, given: Tensor, features: Tensor, there: Tensor) -> Tensor:
        """The output (R, tokens, width) mixed with what the input (R, tokens, width) recalls of features (R, N, width).

        Args:
            there: (R, tokens) bool, the tokens over which sizes are compared.
        """
        products = given @ features.mT
        if self.activation != "identity":
            products = getattr(torch.nn.functional, self.activation)(products)
        image = products @ features
        sizes = [(x.abs().mean(dim=-1) * there).sum(dim=-1)[:, None, None] for x in (output, image)]
        mixed = torch.lerp(output, image * (sizes[0] / sizes[1].clamp(min=torch.finfo(image.dtype).tiny)), self.r)
        return mixed.where(sizes[1] > 0, output)

    def edit_hidden(self, output: Tensor, given: Tensor, step: StepView, layer: int) -> Tensor:
        self._require_decision(step, output.shape[1])
        recalls = step.once(self._recalls, layer - 1)
        if not possible(recalls):
            return output
        if step.image_features is None:
            raise RuntimeError("memvr: the engine gave no image features")
        there = torch.ones_like(output[:, :, 0], dtype=torch.bool)
        if step.padding is not None:
            there = ~step.padding[:, step.padding.shape[1] - output.shape[1] :]
        return self.recalled(output, given, step.image_features, there).where(recalls[:, None, None], output)

    def _require_decision(self, step: StepView, tokens: int) -> None:
        """One row decides for a forward: the last one of a whole prompt, or the one new token."""
        if step.phase is Phase.MIXED or (step.phase is Phase.DECODE and tokens > 1):
            raise ValueError(
                "memvr: every new token decides for itself, leave use_cache as it is, switch assisted decoding off, "
                "and by hand begin every turn with the whole prompt"
            )
        if step.phase is Phase.PROMPT and isinstance(step.prompt_length, int) and len(step.keys) < step.prompt_length:
            raise ValueError("memvr: the last token of a prompt decides for all of it, unset prefill_chunk_size")

    def tells(self, step: StepView) -> dict[str, Tensor]:
        """`entropy` behind the layer where a row was unsure, and `layer`, its number; NaN where none was."""
        lo, hi = self._span(step.n_layers)
        entropy = torch.stack([step.once(self._entropy, layer) for layer in range(lo, hi)])
        unsure = entropy > self.tau
        first = unsure.int().argmax(dim=0)
        said = entropy.gather(0, first[None])[0]
        return {
            "entropy": torch.where(unsure.any(dim=0), said, torch.nan),
            "layer": torch.where(unsure.any(dim=0), (first + lo).float(), torch.nan),
        }
