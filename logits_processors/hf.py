"""Thin classes with the constructor that transformers users expect; no maths, no defaults."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import LogitsProcessor

from grounddecode import registry
from grounddecode.engines.hf.attach.acting import at_work
from grounddecode.engines.hf.attach.arming import Armed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.method import Method
    from grounddecode.trace import Recorder


class MethodLogitsProcessor(Armed, LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Applies a method to the `generate` calls it is passed to, and to no others, wherever and whenever it was made.

        model.generate(**inputs, logits_processor=[AvisCLogitsProcessor(model, alpha=1.0)])

    Several in one list compose in list order. One may be passed to any number of calls, of any threads; calls with
    methods on one model wait for each other.

    Args:
        model: the model that will generate.  method: a `Method`, where the class does not name one.
        calibration: what is known about the checkpoint.  trace: a recorder of all that is done in the calls.
        params: hyper-parameters of the method.

    Raises:
        ValueError: a model or hyper-parameter that cannot work.
    """

    registered: str | None = None
    supports_continuous_batching = False

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method | None = None,
        *,
        calibration: Calibration | None = None,
        trace: Recorder | None = None,
        **params: Any,
    ) -> None:
        if method is None and self.registered is None:
            raise ValueError("MethodLogitsProcessor was given no method, e.g. MethodLogitsProcessor(model, AvisC())")
        self.model = model
        self.method: Method = method or registry.create(str(self.registered), **params)
        self.calibration = calibration
        self.trace = trace
        super().__init__(model, self.method, calibration, trace)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are: the method has acted inside the model's forward pass already."""
        if not at_work(self):
            raise RuntimeError(
                f"{type(self).__name__} was passed to a decoding loop that is not transformers' own (custom_generate), "
                "use `with ground(model, ...)` around that call"
            )
        return scores

    def __reduce__(self) -> Any:
        return _made_again, (type(self), self.model, self.method, self.calibration, self.trace)


def _made_again(kind: type[MethodLogitsProcessor], model: Any, method: Method, calibration: Any, trace: Any) -> Any:
    return kind(model, method, calibration=calibration, trace=trace)


@cache
def processor_class(method: str) -> type[MethodLogitsProcessor]:
    """The processor class of a registered method."""
    name = registry.targets()[method].rpartition(":")[2] + "LogitsProcessor"
    doc = (registry.method_class(method).__doc__ or "").partition("\n")[0]
    return type(
        name, (MethodLogitsProcessor,), {"registered": method, "__doc__": doc, "__module__": "logits_processors"}
    )
