"""Answers while they grow: their logits through the methods, which rows have ended, how far two streams differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.method import Method, Needs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.engines.hf.session import Session
    from grounddecode.engines.hf.step import Step


def ended(model: PreTrainedModel, step: Step, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Bool (rows,): rows whose answer has ended, told by the end or padding token that they read; None: unknown."""
    ids = kwargs.get("input_ids")
    if ids is None or not step.generated:
        return None
    settings = model.generation_config
    known = [x for x in (settings.eos_token_id, settings.pad_token_id) if x is not None]
    stops = [token for x in known for token in (x if isinstance(x, list) else [x])]
    return torch.isin(ids[:, -1], torch.tensor(stops, dtype=ids.dtype, device=ids.device))


def adjusted(session: Session, acting: Sequence[Method], step: Step, output: Any, kwargs: Mapping[str, Any]) -> Tensor:
    """(rows, vocabulary) next-token logits through the methods that adjust them, in list order."""
    last: Tensor = output.logits[:, -1]
    view = step.last_view(last.device).with_(second_logits=step.second_logits)
    for method in acting:
        before, last = last, method.adjust_logits(last, view)
        streams = Needs.SECOND_STREAM in method.active_needs()
        if session.trace is not None and streams and view.second_logits is not None:
            idle, over = view.image_end < 0, ended(session.model, step, kwargs)
            contrast = _distance(before, view.second_logits, last.isfinite())
            idle = idle if over is None else idle | over.to(idle.device)
            session.trace.record(step.generated, method.name, "contrast", contrast.masked_fill(idle, torch.nan))
    return last


def _distance(main: Tensor, second: Tensor, kept: Tensor) -> Tensor:
    """(rows,) mean distance of the log-probabilities of two streams over the tokens that were kept."""
    distance = (main.float().log_softmax(-1) - second.float().log_softmax(-1)).abs()
    there = kept & distance.isfinite()
    return distance.where(there, 0.0).sum(-1) / there.sum(-1)
