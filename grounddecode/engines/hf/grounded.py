"""GroundedModel: a model and its methods in one object."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from grounddecode import registry
from grounddecode.engines.hf.session import Session
from grounddecode.engines.hf.transformers_names import CONTINUOUS_BATCHING
from grounddecode.method import Method

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_LIBRARIES = ("torch", "transformers", "peft")  # whose methods run the model in `generate` and a forward pass alone


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

    `generate`, a call or `forward` (a forward pass), and what a model's own code adds to these (`chat`) run under the
    methods, in the thread that makes them. Every other attribute is the model's own, and what returns the model
    (`eval()`, `to(...)`, `half()`) returns this object. The model itself stays plain. Copies and pickles hold a model
    of their own.
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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As a call, without the hooks around the model."""
        with self._session.offered():
            return self._model.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_model" not in vars(self):  # while a copy of this object is being made
            raise AttributeError(name)
        if name in CONTINUOUS_BATCHING and self._session.acts:
            return self._session.refuse_continuous_batching
        value = getattr(self._model, name)
        if not inspect.ismethod(value) or value.__self__ not in (self._model, self._session.model):
            return value
        return self._chained(value, acts=value.__module__.split(".")[0] not in _LIBRARIES)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __reduce__(self) -> Any:
        methods, options = self._made
        return _made_again, (type(self), self._model, methods, options)

    def _chained(self, method: Any, acts: bool) -> Any:
        """A method of the model; `acts`: it may run the model, under the methods."""
        under = functools.partial(self._session.offered, must_run=False) if acts else nullcontext

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            with under():
                result = method(*args, **kwargs)
            if acts and inspect.isgenerator(result):
                return _stepped(result, under)
            return self if result is self._model else result

        return call


def _stepped(generator: Iterator[Any], under: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """The same, every step of it within `under()`; what the caller does between two of them is not."""
    end = object()
    while True:
        with under():
            value = next(generator, end)
        if value is end:
            return
        yield value


def _made_again(kind: type[GroundedModel], model: Any, methods: list[Method], options: dict[str, Any]) -> GroundedModel:
    return kind(model, methods, **options)
