"""Pictures of refused requests: vLLM's frontend has noted that the engine holds them, which it does not.

A refusal takes the note back. Requests with the same picture that were read before that bring none along: they are
given that of the refused one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MOST = 16  # pictures that are kept: only requests that are read at this moment can miss one
_kept: dict[str, Any] = {}  # by vLLM's hash, of this process: as the engine would have been given them


def complete(prompt: Any) -> None:
    """Give a request the pictures that it lacks because a refused one brought them."""
    for items, at, name in _pictures(prompt) if _kept else ():
        if items[at] is None:
            items[at] = _kept.get(name)


def arrived(prompt: Any) -> None:
    """The engine will get the pictures of this request."""
    for _, _, name in _pictures(prompt) if _kept else ():
        _kept.pop(name, None)


def take_back(frontend: Any, prompt: Any) -> None:
    """The engine will not get the pictures of this request."""
    cache = getattr(frontend.renderer, "mm_processor_cache", None)
    if cache is None or not hasattr(cache, "invalidate"):
        return
    for items, at, name in _pictures(prompt):
        cache.invalidate(name)
        if items[at] is not None:
            _kept[name] = items[at]
    while len(_kept) > _MOST:
        _kept.pop(next(iter(_kept)))


def _pictures(prompt: Any) -> Iterator[tuple[list[Any], int, str]]:
    """Of what a frontend has read: a list of what the engine is given, the place of each picture in it, its hash."""
    hashes, given = (prompt.get(key) if isinstance(prompt, dict) else None for key in ("mm_hashes", "mm_kwargs"))
    for kind, names in (hashes or {}).items():
        items = list(given[kind]) if given else [None] * len(names)
        if given:
            given[kind] = items
        yield from ((items, at, name) for at, name in enumerate(names) if name is not None)
