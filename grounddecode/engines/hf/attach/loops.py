"""Where `generate` is caught while it runs: the decoding loop, looked up when its arguments exist.

`model.generate(logits_processor=[P(model)])` looks `generate` up before P is made, so nothing that is put on `generate`
can know P. What `generate` looks up later, on the model's class, is the loop it hands its prepared arguments to. The
loops of a class are wrapped in place, for as long as somebody needs it; a wrapper asks who acts on this call, and goes
straight on where nobody does. Nothing is put on the model itself, so that copies of it are copies.

The same for the step before it in which newer releases run the vision tower, for methods that watch the tower.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from grounddecode.engines.hf import transformers_names

# Called in place of a loop, with the model, the loop as it was, and the loop's arguments.
Catcher = Callable[[nn.Module, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_lock = threading.RLock()
_users: dict[type, int] = {}
_before: dict[type, dict[str, Any]] = {}


@contextmanager
def caught(kind: type, loop: Catcher, encoder: Catcher) -> Iterator[None]:
    """The loops of `kind` go through `loop`, the encoding of its images through `encoder`, while the context lasts."""
    catch(kind, loop, encoder)
    try:
        yield
    finally:
        release(kind)


def catch(kind: type, loop: Catcher, encoder: Catcher) -> None:
    """Wrap the loops of a model class; counted, see `release`.

    Raises:
        RuntimeError: a release of transformers whose loops are not where they were.
    """
    with _lock:
        if not _users.get(kind):
            names = transformers_names.decoding_loops(kind)
            wrapped = {name: _wrapped(kind, getattr(kind, name), loop) for name in names}
            if hasattr(kind, transformers_names.ENCODE):
                name = transformers_names.ENCODE
                wrapped[name] = _wrapped(kind, getattr(kind, name), encoder)
            _before[kind] = {name: vars(kind).get(name) for name in wrapped}
            for name, value in wrapped.items():
                setattr(kind, name, value)
        _users[kind] = _users.get(kind, 0) + 1


def release(kind: type) -> None:
    """Undo one `catch`; the last one leaves the class as it was."""
    with _lock:
        _users[kind] -= 1
        if _users[kind]:
            return
        del _users[kind]
        for name, value in _before.pop(kind).items():
            if value is None:
                delattr(kind, name)
            else:
                setattr(kind, name, value)


def _wrapped(kind: type, original: Callable[..., Any], catcher: Catcher) -> Callable[..., Any]:
    """`original`, caught; a subclass that is caught itself, and calls or inherits this one, goes straight on."""

    @functools.wraps(original)  # `generate` reads the signature of its loop
    def wrapper(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nearest = next((known for known in type(model).__mro__ if known in _users), kind)
        return catcher(model, original, args, kwargs) if nearest is kind else original(model, *args, **kwargs)

    return wrapper
