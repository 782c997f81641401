"""Saliency: how much each output token rests on each image, on the prompt and on earlier output.

The saliency of a key j for a token is `|A_j * dL/dA_j|` of the attention row that predicts the token, L the log-odds of
the token, averaged over heads ("Hallucination Begins Where Saliency Drops", arXiv 2601.20279, Eq. 3-5; the paper's loss
is the log-probability, whose rows have the same direction but vanish for confident tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from grounddecode.saliency.record import SaliencyRecord

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.method import Method
    from grounddecode.trace import Trace

__all__ = ["SaliencyRecord", "record_saliency", "saliency_map"]


def record_saliency(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    methods: Method | Iterable[Method] = (),
    *,
    layers: tuple[int, ...] | Literal["auto", "released"] = "auto",
    calibration: Calibration | None = None,
    answer: Tensor | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    trace: Trace | None = None,
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
        answer: (rows, tokens) long; an answer that is read instead of chosen, whoever gave it. No `generation` then.
        sizes: (width, height) of the pictures, for the places of tiles, see `ImageLayout.of`.
        trace: is told what goes on beside it.
        generation: options of `generate`; beams and assisted decoding are refused.

    Raises:
        ValueError: a model, method or option that cannot be recorded.  RuntimeError: inside `torch.inference_mode`.
    """
    from grounddecode.engines.hf.saliency.record import record

    return record(
        model, inputs, _several(methods), layers, calibration, generation, answer=answer, sizes=sizes, trace=trace
    )


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
