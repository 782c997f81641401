"""Drop-in form: methods that act only in the `generate` calls whose `logits_processor` list names them.

A logits processor is first called after the prompt was read, too late for an attention edit. So a processor that is
built for a model puts a thin wrapper on that instance's `generate`: a call whose list holds such processors runs in a
session, any other call goes straight through. The wrapper leaves with the last processor.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from grounddecode.engines.hf.decoder import find_decoder
from grounddecode.engines.hf.session import Session

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.method import Method
    from grounddecode.trace import Trace

_ARMING = "_grounddecode_arming"


class Armed(Protocol):
    """What arming needs to know of a processor."""

    method: Method
    calibration: Calibration | None
    trace: Trace | None
    running: bool


class _Arming:
    """The wrapper of one model's `generate` and the processors it knows."""

    def __init__(self, model: PreTrainedModel) -> None:
        find_decoder(model)  # a model that cannot be grounded is refused here, not at the first call
        self.alive: set[int] = set()  # ids of the processors that were built for this model and still exist
        self.active = False
        self._model = weakref.ref(model)
        self._before = vars(model).get("generate")
        vars(model)["generate"] = self._wrap(model.generate)
        vars(model)[_ARMING] = self

    def leave(self, processor: int) -> None:
        """One processor is gone; the last one takes the wrapper with it."""
        self.alive.discard(processor)
        model = None if self.alive else self._model()
        if model is None or vars(model).pop(_ARMING, None) is None:
            return
        if self._before is None:
            vars(model).pop("generate", None)
        else:
            vars(model)["generate"] = self._before

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            listed = signature.bind_partial(*args, **kwargs).arguments.get("logits_processor") or ()
            mine = [processor for processor in listed if id(processor) in self.alive]
            if not mine or self.active:
                return original(*args, **kwargs)
            return self._run(mine, args, kwargs)

        return generate

    def _run(self, mine: list[Armed], args: Any, kwargs: Any) -> Any:
        model = self._model()
        if model is None:
            raise RuntimeError("the model of this logits processor is gone")
        calibration = next((p.calibration for p in mine if p.calibration is not None), None)
        trace = next((p.trace for p in mine if p.trace is not None), None)
        self._set(mine, True)
        try:
            with Session(model, [p.method for p in mine], calibration=calibration, trace=trace):
                return model.generate(*args, **kwargs)
        finally:
            self._set(mine, False)

    def _set(self, mine: list[Armed], running: bool) -> None:
        self.active = running
        for processor in mine:
            processor.running = running


def arm(model: PreTrainedModel, processor: Armed) -> None:
    """Let `generate` calls of `model` that list `processor` run with its method, as long as the processor lives."""
    arming = vars(model).get(_ARMING)
    if arming is None:
        arming = _Arming(model)
    arming.alive.add(id(processor))
    weakref.finalize(processor, arming.leave, id(processor))


def disarm(model: PreTrainedModel, processor: Armed) -> None:
    """Undo `arm` before the processor is collected."""
    arming = vars(model).get(_ARMING)
    if arming is not None:
        arming.leave(id(processor))
