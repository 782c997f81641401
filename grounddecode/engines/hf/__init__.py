"""Hugging Face engine: `ground` a model for a block, wrap it for good, or arm single `generate` calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grounddecode.engines.hf.grounded import GroundedModel, chosen
from grounddecode.engines.hf.session import Session
from grounddecode.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.trace import Recorder

__all__ = ["GroundedModel", "Session", "ground"]


def ground(
    model: PreTrainedModel,
    methods: Method | str | Iterable[Method | str],
    *more: Method | str,
    calibration: Calibration | None = None,
    trace: Recorder | None = None,
) -> Session:
    """Apply methods to every `generate` (or forward) of a model inside a `with` block.

        with ground(model, methods):
            model.generate(**inputs)

    A forward pass inside the block is the beginning of a sequence, or goes on with one that began there, told by its
    cache: several dialogues may be advanced in turn. What processors, stopping criteria and streamers of a `generate`
    call do with the model is no step of that call, and plain. Calls of several threads wait for each other.

    Args:
        model: a transformers vision-language model whose attention goes through the attention interface, or what
            `torch.compile` or PEFT made of one.
        methods: one or several, or specifications as the command line takes them ("name:option=value+name");
            several compose in the given order.
        calibration: what is known about the checkpoint, for methods that need it.
        trace: a recorder of what the methods did.

    Raises:
        ValueError: a model, or a combination of methods, that cannot work; one sentence says why and what to do.
        RuntimeError: the model is grounded already; or, at the end, a generation of another thread still runs.
    """
    return Session(model, chosen(methods, *more), calibration=calibration, trace=trace)
