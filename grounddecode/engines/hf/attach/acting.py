"""Who acts on a call: the processors it lists, the session its thread was offered, or the block that is open.

Nothing of this lies on the model. A block is open for every thread, an offer (`GroundedModel`, `bench`) for its own
thread only, a processor for the calls that list it.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from grounddecode.engines.hf.attach.running import Encoding, Tower
from grounddecode.engines.hf.attention import kernels

if TYPE_CHECKING:
    from grounddecode.engines.hf.attach.binding import Binding
    from grounddecode.engines.hf.decoder import Decoder
    from grounddecode.engines.hf.watch.vision import TowerWatch

_alive: WeakSet[Any] = WeakSet()
_open: WeakKeyDictionary[nn.Module, Standing] = WeakKeyDictionary()
_lock = threading.RLock()


class Standing(Protocol):
    """What acts on the calls of a model."""

    model: Any
    decoder: Decoder
    binding: Binding

    @property
    def watch(self) -> TowerWatch | None:
        """Of the vision tower, if it has to be watched before the loop."""
        ...

    @property
    def encodes_anew(self) -> bool:
        """Whether the images may have to be encoded once more."""
        ...

    def generate(
        self, loop: Callable[..., Any], arguments: dict[str, Any], tower: Tower, encoding: Encoding | None
    ) -> Any:
        """A decoding loop under the methods."""
        ...


class Processor(Protocol):
    """What is asked of a processor that names methods."""

    session: Standing
    closed: bool

    @classmethod
    def together(cls, processors: Sequence[Any]) -> Standing:
        """The session of several in one list."""
        ...


class Listed:
    """Base of such processors, by which a decoding loop knows them in its list."""


def keep(processor: Listed) -> None:
    """Count a processor among those that a call may list."""
    with _lock:
        _alive.add(processor)


class _Here(threading.local):
    """What is so in this thread."""

    def __init__(self) -> None:
        self.offered: list[Standing] = []
        self.running: list[Standing] = []  # whose decoding loops are on the stack
        self.listed: list[Any] = []  # processors at work
        self.encodings: WeakKeyDictionary[nn.Module, Encoding] = WeakKeyDictionary()
        self.towers: WeakKeyDictionary[nn.Module, Tower] = WeakKeyDictionary()


_here = _Here()


# -- blocks and offers -------------------------------------------------------------------------------------------------
def open_block(session: Standing) -> None:
    """From now on `session` acts on every call of its model. Raises RuntimeError where another one does."""
    runner = session.decoder.runner
    with _lock:
        _refuse_second(session, _open.get(runner))
        _open[runner] = session


def close_block(session: Standing) -> None:
    with _lock:
        if _open.get(session.decoder.runner) is session:
            del _open[session.decoder.runner]


@contextmanager
def offered(session: Standing) -> Iterator[None]:
    """`session` acts on the calls of its model that this thread makes until the context ends."""
    _refuse_second(session, _open.get(session.decoder.runner))
    if session in _here.running:
        raise RuntimeError(
            f"this GroundedModel of {type(session.model).__name__} is at work in the generate call around this one, "
            "build another one for the call inside"
        )
    _here.offered.append(session)
    try:
        yield
    finally:
        _here.offered.remove(session)


def stands(session: Standing) -> bool:
    """Whether `session` acts on what this thread does with its model outside of any decoding loop."""
    return _standing(session.decoder.runner) is session


def _standing(runner: nn.Module) -> Standing | None:
    for session in reversed(_here.offered):
        if session.decoder.runner is runner:
            return session
    return _open.get(runner)


def _refuse_second(session: Standing, other: Standing | None) -> None:
    if other is not None:
        raise RuntimeError(
            f"{type(session.model).__name__} is grounded already, pass all methods at once: ground(model, [A(), B()])"
        )


# -- decoding loops ----------------------------------------------------------------------------------------------------
def at_work(processor: Any) -> bool:
    """Whether the loop that runs in this thread lists `processor` and acts by it."""
    return any(processor is known for known in _here.listed)


def catch_loop(model: nn.Module, loop: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A decoding loop of `model`, with the methods of whoever acts on it."""
    tower, encoding = _here.towers.pop(model, {}), _here.encodings.pop(model, None)
    outer = next((session for session in reversed(_here.running) if session.decoder.runner is model), None)
    listed = [p for p in kwargs.get("logits_processor") or () if isinstance(p, Listed)]
    mine = _mine(model, listed, outer)
    if outer is not None and not mine and not _offered_inside(model, outer):
        # The model generates inside its own `generate`: that is a run of its own, and plain.
        with outer.binding.aside():
            return loop(model, *args, **kwargs)
    standing = _standing(model)
    if mine:
        if outer is None:
            _refuse_second(mine[0].session, standing)
        standing = type(mine[0]).together(mine)
    if standing is None:
        return loop(model, *args, **kwargs)
    arguments = dict(zip(_names(loop), args, strict=False)) | kwargs
    _here.running.append(standing)
    _here.listed += mine
    try:
        return standing.generate(lambda **changed: loop(model, **changed), arguments, tower, encoding)
    finally:
        _here.running.remove(standing)
        del _here.listed[len(_here.listed) - len(mine) :]


def _offered_inside(model: nn.Module, outer: Standing) -> bool:
    """Whether a callback of the outer loop asked for methods of its own."""
    standing = _standing(model)
    return standing is not None and standing is not outer and standing is not _open.get(model)


def _mine(model: nn.Module, listed: Sequence[Any], outer: Standing | None) -> list[Any]:
    """The listed processors that this loop shall act by; those of the loop around an assistant's are at work."""
    for processor in listed:
        name = type(processor).__name__
        if processor.closed:
            raise RuntimeError(f"{name} was closed, build a new one")
        if at_work(processor):
            if outer is not None and outer.binding.is_aside and processor.session.decoder.runner is model:
                raise RuntimeError(f"{name} is at work in the generate call around this one, build another one for it")
        elif processor.session.decoder.runner is not model:
            raise RuntimeError(
                f"{name} was built for another model than the one that generates, build it with this one"
            )
    return [processor for processor in listed if not at_work(processor)]


@cache
def _names(loop: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a loop's arguments behind the model; of a subclass' own that takes `*args`, the first that all have."""
    given = tuple(inspect.signature(loop).parameters.values())[1:]
    return tuple(p.name for p in given if p.kind is p.POSITIONAL_OR_KEYWORD) or ("input_ids",)


# -- the vision tower, where it runs before the loop -------------------------------------------------------------------
def catch_encoder(model: nn.Module, encode: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The vision tower of `model`, watched if somebody may act on the call by what is seen."""
    standing = _standing(model)
    possible = [] if standing is None else [standing]
    with _lock:
        alive = list(_alive)
    possible += [p.session for p in alive if not p.closed and p.session.decoder.runner is model]
    if any(session.encodes_anew or session.watch is not None for session in possible):
        given = args[0] if args else next(iter(kwargs.values()))
        _here.encodings[model] = Encoding(functools.partial(encode, model), dict(given))
    watch = next((session.watch for session in possible if session.watch is not None), None)
    if watch is None:
        return encode(model, *args, **kwargs)
    calls: Tower = {}
    with kernels.installed(watch.kernel), kernels.handling(watch.handlers(calls)):
        result = encode(model, *args, **kwargs)
    _here.towers[model] = calls
    return result
