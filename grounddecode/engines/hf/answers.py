"""Answers while they grow: which rows have ended, and what a trace is told of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.engines.choose import Note
    from grounddecode.engines.hf.step import Step
    from grounddecode.method import Method
    from grounddecode.trace import Recorder
    from grounddecode.view import StepView


def ended(model: PreTrainedModel, step: Step, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Bool (rows,): rows whose answer has ended, told by the end or padding token that they read; None: unknown."""
    ids = kwargs.get("input_ids")
    if ids is None or not step.generated:
        return None
    settings = model.generation_config
    known = [x for x in (settings.eos_token_id, settings.pad_token_id) if x is not None]
    stops = [token for x in known for token in (x if isinstance(x, list) else [x])]
    return torch.isin(ids[:, -1], torch.tensor(stops, dtype=ids.dtype, device=ids.device))


def note_of(trace: Recorder, step: Step, view: StepView, over: Tensor | None) -> Note:
    """What enters what it is told of a step in a trace; NaN for rows without an image, and for ended answers."""
    idle = view.image_end < 0
    idle = idle if over is None else idle | over.to(idle.device)

    def note(method: Method, what: str, value: Tensor) -> None:
        trace.record(step.generated, method.name, what, value.float().masked_fill(idle, torch.nan))

    return note
