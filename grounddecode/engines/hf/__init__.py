"""Hugging Face engine: `ground` a model for a block, wrap it for good, or arm single `generate` calls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from grounddecode.engines.hf.session import Session
from grounddecode.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from grounddecode.calibration import Calibration
    from grounddecode.trace import Trace

__all__ = ["GroundedModel", "Session", "ground"]


def ground(
    model: PreTrainedModel,
    methods: Method | Iterable[Method],
    *more: Method,
    calibration: Calibration | None = None,
    trace: Trace | None = None,
) -> Session:
    """Apply methods to every `generate` (or forward) of a model inside a `with` block.

        with ground(model, [LocoRE(), AvisC()]):
            model.generate(**inputs)

    Args:
        model: a transformers vision-language model whose attention goes through the attention interface.
        methods: one or several; several compose in the given order.
        calibration: what is known about the checkpoint, for methods that need it.
        trace: a recorder of what the methods did.

    Raises:
        ValueError: a model, or a combination of methods, that cannot work; one sentence says why and what to do.
        RuntimeError: the model is grounded already.
    """
    several = [methods] if isinstance(methods, Method) else list(methods)
    for method in (*several, *more):
        if not isinstance(method, Method):
            raise ValueError(f"{method!r} is no method, give e.g. AvisC() or registry.create('avc')")
    return Session(model, [*several, *more], calibration=calibration, trace=trace)


class GroundedModel:
    """A model with methods, for people who want one call: `GroundedModel(model, AvisC()).generate(**inputs)`.

    Every other attribute is the model's own. The model itself stays plain: methods act inside `generate` only.
    """

    def __init__(
        self, model: PreTrainedModel, methods: Method | Iterable[Method], *more: Method, **options: Any
    ) -> None:
        self._model = model
        self._session = ground(model, methods, *more, **options)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own `generate`, with the methods applied."""
        with self._session:
            return self._model.generate(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
