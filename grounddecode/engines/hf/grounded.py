"""GroundedModel: a model and its methods in one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from grounddecode import registry
from grounddecode.engines.hf.session import Session
from grounddecode.engines.hf.transformers_names import CONTINUOUS_BATCHING
from grounddecode.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def chosen(methods: Method | str | Iterable[Method | str], *more: Method | str) -> list[Method]:
    """Methods that were given as such, or as specifications. Raises ValueError for anything else."""
    several = [methods] if isinstance(methods, (Method, str)) else list(methods)
    found: list[Method] = []
    for method in (*several, *more):
        if isinstance(method, str):
            found += registry.parse(method)
        elif isinstance(method, Method):
            found.append(method)
        else:
            example = registry.names()[0]
            raise ValueError(
                f"{method!r} is no method, give e.g. {registry.method_class(example).__name__}() or {example!r}"
            )
    return found


class GroundedModel:
    """A model with methods, for people who want one call: `GroundedModel(model, methods).generate(**inputs)`.

    `generate`, and a call (a forward pass), run under the methods, in the thread that makes them. Every other attribute
    is the model's own, and what returns the model (`eval()`, `to(...)`, `half()`) returns this object. The model itself
    stays plain. Copies and pickles hold a model of their own.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        methods: Method | str | Iterable[Method | str],
        *more: Method | str,
        **options: Any,
    ) -> None:
        vars(self).update(
            _model=model,
            _made=(chosen(methods, *more), options),
            _session=Session(model, chosen(methods, *more), **options).prepare(),
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own `generate`, with the methods applied."""
        with self._session.offered():
            return self._model.generate(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """A forward pass of the model, with the methods applied; its cache goes on where it ended."""
        with self._session.offered():
            return self._model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_model" not in vars(self):  # while a copy of this object is being made
            raise AttributeError(name)
        if name in CONTINUOUS_BATCHING and self._session.acts:
            return self._session.refuse_continuous_batching
        value = getattr(self._model, name)
        return self._chained(value) if inspect.ismethod(value) and value.__self__ is self._model else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __reduce__(self) -> Any:
        methods, options = self._made
        return _made_again, (type(self), self._model, methods, options)

    def _chained(self, method: Any) -> Any:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self if result is self._model else result

        return call


def _made_again(kind: type[GroundedModel], model: Any, methods: list[Method], options: dict[str, Any]) -> GroundedModel:
    return kind(model, methods, **options)
