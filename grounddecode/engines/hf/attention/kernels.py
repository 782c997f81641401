"""In-place wrapping of transformers' attention registry: one wrapper a kernel, dispatching on the thread that runs.

The registry is global to the process, so the wrapper passes modules that nobody handles straight through, and the
original entry comes back when the last user is done. Who handles a module is a matter of the thread: what another
thread computes with the same model at the same time is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from grounddecode.engines.hf.attention.call import BaseAttention, Call, Output
from grounddecode.engines.hf.transformers_names import LEARNT_SINKS, SOFT_CAP, attention_registry, own_eager_attention

Handler = Callable[[Call, BaseAttention], Output]

# Options that a kernel does not read (sdpa has no soft cap, and older transformers let it pass): rows computed here
# must not read them either, or they would belong to another model than the rows of the kernel.
_IGNORED = {"sdpa": (SOFT_CAP,)}
_lock = threading.RLock()
_users: dict[str, int] = {}
_originals: dict[str, BaseAttention | None] = {}


class _Here(threading.local):
    handlers: Mapping[nn.Module, Handler] = {}


_here = _Here()


@contextmanager
def handling(handlers: Mapping[nn.Module, Handler]) -> Iterator[None]:
    """Attention of these modules goes through their handlers, in this thread, until the context ends."""
    before = _here.handlers
    _here.handlers = {**before, **handlers} if before else handlers
    try:
        yield
    finally:
        _here.handlers = before


@contextmanager
def installed(kernel: str) -> Iterator[None]:
    """The wrapper of `kernel` for as long as the context lasts."""
    install(kernel)
    try:
        yield
    finally:
        uninstall(kernel)


def install(kernel: str) -> None:
    """Wrap the registry entry of `kernel` ("sdpa", "eager", "flash_attention_2", ...); counted, see `uninstall`."""
    with _lock:
        if not _users.get(kernel):
            mapping = attention_registry()
            if kernel != "eager" and kernel not in mapping:
                raise ValueError(
                    f"attention implementation {kernel!r} is not in transformers' registry, load with sdpa"
                )
            _originals[kernel] = mapping.get(kernel)
            mapping[kernel] = _wrapper(_originals[kernel], _IGNORED.get(kernel, ()))
        _users[kernel] = _users.get(kernel, 0) + 1


def uninstall(kernel: str) -> None:
    """Undo one `install`; the last one restores the registry as it was."""
    with _lock:
        _users[kernel] -= 1
        if _users[kernel]:
            return
        del _users[kernel]
        original = _originals.pop(kernel)
        if original is None:
            del attention_registry()[kernel]
        else:
            attention_registry()[kernel] = original


def _wrapper(original: BaseAttention | None, ignored: tuple[str, ...]) -> BaseAttention:
    def grounded_attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> Output:
        base = original or own_eager_attention(module)
        handler = _here.handlers.get(module)
        if handler is None:
            return base(module, query, key, value, attention_mask, **options)
        if options.get(LEARNT_SINKS) is not None:
            raise ValueError(
                f"{type(module).__name__} has learnt attention sinks, which no method knows, use another model"
            )
        for name in ignored:
            options.pop(name, None)
        return handler(Call(module, query, key, value, attention_mask, options), base)

    return grounded_attention
