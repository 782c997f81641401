"""Thin classes with the constructor that transformers users expect; no maths, no defaults."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import LogitsProcessor

from grounddecode import registry
from grounddecode.engines.hf.arming import arm, disarm

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.method import Method
    from grounddecode.trace import Trace


class MethodLogitsProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
    """Applies a method to the `generate` calls it is passed to, and to no others.

        model.generate(**inputs, logits_processor=[AvisCLogitsProcessor(model, alpha=1.0)])

    Several in one list compose in list order. The model gets a wrapper on its `generate` while the processor lives;
    `close()` removes it at once.

    Args:
        model: the model that will generate.  method: a `Method`, where the class does not name one.
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
        trace: Trace | None = None,
        **params: Any,
    ) -> None:
        if method is None and self.registered is None:
            raise ValueError("MethodLogitsProcessor was given no method, e.g. MethodLogitsProcessor(model, AvisC())")
        self.model = model
        self.method: Method = method or registry.create(str(self.registered), **params)
        self.calibration = calibration
        self.trace = trace
        self.running = False
        arm(model, self)

    def close(self) -> None:
        """Take the wrapper off the model's `generate`."""
        disarm(self.model, self)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores as they are: the method has acted inside the model's forward pass already."""
        if not self.running:
            raise RuntimeError(
                f"{type(self).__name__} was built for another model than the one that generates (or was closed), "
                "build it with this model"
            )
        return scores


@cache
def processor_class(method: str) -> type[MethodLogitsProcessor]:
    """The processor class of a registered method."""
    name = registry.METHODS[method].rpartition(":")[2] + "LogitsProcessor"
    doc = (registry.method_class(method).__doc__ or "").partition("\n")[0]
    return type(
        name, (MethodLogitsProcessor,), {"registered": method, "__doc__": doc, "__module__": "logits_processors"}
    )
