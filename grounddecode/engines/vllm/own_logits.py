"""The model's own logits of a step, which vLLM has put masks and biases into before a processor is shown them.

Methods work on the model's own, among the tokens that a request can have; what was added to them is added behind.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from grounddecode.engines.vllm.requests import Current

_SHAPING = ("allowed_token_ids", "bad_words", "logit_bias", "min_tokens", "structured_outputs")
_PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}  # with their neutral values


def is_shaped(params: Any) -> bool:
    """Whether vLLM puts something into the logits of a request with these parameters."""
    if any(getattr(params, name, None) for name in _SHAPING):
        return True
    return any(getattr(params, name, neutral) != neutral for name, neutral in _PENALTIES.items())


def keep_own_logits(worker: Current, model: Any) -> None:
    """Have the logits of a step kept as they come out of the model, if one of its requests will be shown others."""
    compute = model.compute_logits

    @functools.wraps(compute)
    def compute_logits(*args: Any, **kwargs: Any) -> Any:
        logits, layout = compute(*args, **kwargs), worker.layout
        if logits is None or layout is None or worker.own_logits[0] is layout:  # these are of second streams
            return logits
        if worker.requests.shaped[layout.slots].any():
            worker.own_logits = layout, logits.clone()
        return logits

    model.compute_logits = compute_logits


def own_logits(worker: Current, given: Tensor, at: Tensor | None) -> Tensor:
    """(R, vocabulary) of the rows `at`, None: all, in the dtype of `given`, what is shown of them.

    Raises:
        RuntimeError: they were not kept.
    """
    layout, kept = worker.own_logits
    if kept is None or layout is not worker.layout:
        raise RuntimeError("the model's logits were not seen before vLLM put something into them")
    return (kept if at is None else kept[at]).to(given.dtype)


def among(own: Tensor, given: Tensor) -> Tensor:
    """Own logits without the tokens that cannot be had."""
    return own.masked_fill(given == -torch.inf, -torch.inf)


def with_added(changed: Tensor, own: Tensor, given: Tensor) -> Tensor:
    """Changed logits with what `given` has beyond the model's own."""
    forbidden = given == -torch.inf
    added = (given - own).masked_fill(forbidden | (own == -torch.inf), 0.0)
    return (changed + added).masked_fill(forbidden, -torch.inf)
