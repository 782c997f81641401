"""What is recorded of answers while they grow: which rows have ended, how far two streams differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.engines.hf.step import Step
    from grounddecode.trace import Trace


def ended(model: PreTrainedModel, step: Step, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Bool (rows,): rows whose answer has ended, told by the end or padding token that they read; None: unknown."""
    ids = kwargs.get("input_ids")
    if ids is None or not step.generated:
        return None
    settings = model.generation_config
    known = [x for x in (settings.eos_token_id, settings.pad_token_id) if x is not None]
    stops = [token for x in known for token in (x if isinstance(x, list) else [x])]
    return torch.isin(ids[:, -1], torch.tensor(stops, dtype=ids.dtype, device=ids.device))


def trace_contrast(
    trace: Trace, method: str, step: int, main: Tensor, second: Tensor, kept: Tensor, idle: Tensor
) -> None:
    """Record, per row, how far the two streams' log-probabilities are apart: their mean distance over the kept tokens.

    Args:
        main, second, kept: (rows, vocabulary) logits of the streams, and what the method made of them (-inf: cut).
        idle: Bool (rows,), rows that the method has nothing to say of; NaN is recorded for them.
    """
    distance = (main.float().log_softmax(-1) - second.float().log_softmax(-1)).abs()
    there = kept.isfinite() & distance.isfinite()
    mean = distance.where(there, 0.0).sum(-1) / there.sum(-1)
    trace.record(step, method, "contrast", mean.masked_fill(idle, torch.nan))
