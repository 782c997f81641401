"""Saliency: how much each output token rests on each image, on the prompt and on earlier output.

The saliency of a key j for a token is `|A_j * dL/dA_j|` of the attention row that predicts the token, L the log-odds of
the token, averaged over heads ("Hallucination Begins Where Saliency Drops", arXiv 2601.20279, Eq. 3-5; the paper's loss
is the log-probability, whose rows have the same direction but vanish for confident tokens).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.layout import ImageLayout
    from grounddecode.method import Method


@dataclass(frozen=True)
class SaliencyRecord:
    """The saliency of every generated token; tensors on the CPU, N tokens a row.

    Attributes:
        tokens: (rows, N) long, the generated tokens; rows that ended are filled up as `generate` does.
        log_probs: (rows, N) the model's own log-probability of each, before logits processors.
        maps: for token n, (rows, prompt + n) float32: saliency of each key, unit l2 rows averaged over target layers.
        shares: (rows, N, sources): part of the token's saliency mass that lies on each source; they sum to 1.
        sources: "image 1", ..., "prompt" (text, before and behind the image), "output" (earlier tokens).
        coherence: (rows, N) mean of the map over the keys behind the image: the score that SGRS compares.
        previous: (rows, N) the map at the newest key, the token before: the paper's Table 4. The first generated token
            follows the last prompt token.
        layout: where the images lie; `layout.spans[i].positions` index the maps, `heatmap` makes pictures of them.
        layers: target layers.
    """

    tokens: Tensor
    log_probs: Tensor
    maps: tuple[Tensor, ...]
    shares: Tensor
    sources: tuple[str, ...]
    coherence: Tensor
    previous: Tensor
    layout: ImageLayout
    layers: tuple[int, ...]

    @property
    def grounding(self) -> Tensor:
        """(rows, N) grounding score: part of the saliency mass on all images of the row, 0 to 1."""
        images = [i for i, source in enumerate(self.sources) if source.startswith("image")]
        return self.shares[..., images].sum(dim=-1)


def record_saliency(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    methods: Method | Iterable[Method] = (),
    *,
    layers: tuple[int, ...] | Literal["auto", "released"] = "auto",
    calibration: Calibration | None = None,
    **generation: Any,
) -> SaliencyRecord:
    """Generate, and record the saliency of every new token as it is chosen.

        record = record_saliency(model, inputs, max_new_tokens=64, do_sample=False)
        record.grounding[0]  # how much of each token of the first answer rests on the image

    One backward pass through the upper layers a token; no query-by-key matrix.

    Args:
        model: the model.  inputs: what its processor returned.
        methods: attention edits to generate with; methods that choose or contrast tokens are refused.
        layers: target layers, as in `SGRS`.  calibration: for methods that need one.
        generation: options of `generate`; beams and assisted decoding are refused.

    Raises:
        ValueError: a model, method or option that cannot be recorded.  RuntimeError: inside `torch.inference_mode`.
    """
    from grounddecode.engines.hf.saliency.record import record

    return record(model, inputs, _several(methods), layers, calibration, generation)


def saliency_map(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    token: Tensor | int | None = None,
    methods: Method | Iterable[Method] = (),
    *,
    norm: Literal["row", "fro", "none"] = "row",
    signed: bool = False,
    calibration: Calibration | None = None,
) -> Tensor:
    """The full map of one forward pass over `inputs`: (layers, rows, T, T) float32, query by key.

    For pictures of short inputs: it keeps every attention matrix (layers x rows x heads x T x T) in memory.

    Args:
        model, inputs, methods, calibration: as in `record_saliency`.
        token: the next token to explain, one for all rows or (rows,); by default the most probable one.
        norm: `row` divides each query row by its l2 norm, `fro` each matrix by its own (the paper's text), `none` keeps
            |A * dL/dA|.  signed: keep the sign (and average it over heads).

    Returns:
        Entries above the diagonal and in padding are 0.

    Raises:
        ValueError: as `record_saliency`.
    """
    from grounddecode.engines.hf.saliency.record import full_map

    return full_map(model, inputs, token, _several(methods), norm, signed, calibration)


def _several(methods: Method | Iterable[Method]) -> tuple[Method, ...]:
    from grounddecode.method import Method

    return (methods,) if isinstance(methods, Method) else tuple(methods)
