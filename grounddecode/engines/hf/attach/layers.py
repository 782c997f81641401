"""Methods of a module with layers over them, which come and go in any order and leave nothing behind.

A layer is called with what lies under it and the arguments. While there are any, one function stands on the instance
and calls them from the last to the first; with the last one it goes. Copies and pickles of the module do not hold it:
they would run the original.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Layer = Callable[..., Any]  # (what lies under it, *args, **kwargs)
_STATE = "__getstate__"  # asked by copy, deepcopy and pickle


@dataclass
class _Layered:
    """One method: what was on the instance (None: nothing), what stands there now, the layers from the lowest."""

    before: Any
    standing: Any = None
    layers: list[Layer] = field(default_factory=list)


@dataclass
class _Module:
    methods: dict[str, _Layered] = field(default_factory=dict)
    busy: int = 0  # calls that must not be copied along


_lock = threading.RLock()
_modules: WeakKeyDictionary[nn.Module, _Module] = WeakKeyDictionary()


@contextmanager
def layered(
    module: nn.Module, name: str, layer: Layer, wrap: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None
) -> Iterator[None]:
    """`layer` over the method `name` of `module` until the context ends. `wrap`: around all of them."""
    with _lock:
        known = _modules.setdefault(module, _Module())
        method = known.methods.get(name)
        if method is None:
            method = known.methods[name] = _Layered(vars(module).get(name))
            standing = _standing(getattr(module, name), method.layers)
            method.standing = vars(module)[name] = standing if wrap is None else wrap(standing)
            vars(module)[_STATE] = functools.partial(_state, module)
        method.layers.append(layer)
    try:
        yield
    finally:
        with _lock:
            method.layers.remove(layer)
            if not method.layers and known.methods.get(name) is method:
                _remove(module, known, name)


@contextmanager
def busy(module: nn.Module) -> Iterator[None]:
    """`module` cannot be copied while the context lasts."""
    known = _modules.setdefault(module, _Module())
    with _lock:
        known.busy += 1
    try:
        yield
    finally:
        with _lock:
            known.busy -= 1


def _standing(original: Callable[..., Any], layers: list[Layer]) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        standing = tuple(layers)
        if len(standing) == 1:
            return standing[0](original, *args, **kwargs)
        call = original
        for layer in standing:
            call = functools.partial(layer, call)
        return call(*args, **kwargs)

    return method


def _remove(module: nn.Module, known: _Module, name: str) -> None:
    """Leave the instance as it was; what somebody put over ours since stays, and calls the original through it."""
    method = known.methods.pop(name)
    if vars(module).get(name) is method.standing:
        if method.before is None:
            del vars(module)[name]
        else:
            vars(module)[name] = method.before
    if not known.methods:
        vars(module).pop(_STATE, None)


def _state(module: nn.Module) -> dict[str, Any]:
    """What a copy of the module is made of."""
    with _lock:
        known = _modules[module]
        if known.busy:
            raise RuntimeError(
                f"{type(module).__name__} cannot be copied while a generate call with methods runs, copy it before or "
                "after that call"
            )
        state = {name: value for name, value in vars(module).items() if name != _STATE}
        for name, method in known.methods.items():
            if state.get(name) is method.standing:
                del state[name]
                if method.before is not None:
                    state[name] = method.before
        return state
