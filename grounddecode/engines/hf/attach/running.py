"""Run: one `generate` call, or the forwards by hand of one session; what is known of it belongs to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

if TYPE_CHECKING:
    from grounddecode.engines.hf.attention.call import Call
    from grounddecode.engines.hf.generation import Sequence
    from grounddecode.view import StreamEdit

Tower = dict[str, "list[Call]"]  # attention calls of layers of a vision tower, by what is wanted of them
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


def lock_of(runner: nn.Module) -> Any:
    """The lock that calls with methods on one model wait for; a plain call never does."""
    with _making:
        return _locks.setdefault(runner, threading.RLock())


@dataclass(frozen=True)
class Encoding:
    """How images were encoded before a decoding loop: what did it, and what it was given."""

    encode: Callable[[dict[str, Any]], dict[str, Any]]
    given: dict[str, Any]


@dataclass
class Run:
    """What is known of one `generate` call, or of the forwards by hand of a session, whose prompts it cannot know.

    `sequences`: by cache, so that several dialogues may be advanced in turn; `tower`: attention of the vision tower
    that ran before the loop; `steps`: how many forward passes were seen.
    """

    by_hand: bool
    prompt: Tensor | None = None
    padding: Tensor | None = None
    tower: Tower = field(default_factory=dict)
    encoding: Encoding | None = None  # of the images, if that was done before the loop
    copies: int = 1  # rows that `generate` made of each prompt
    settings: Any = None  # of the `generate` call: which tokens end an answer, and pad it
    edit: StreamEdit | None = None  # what a second stream sees, decided when the prompt was read first
    steps: int = 0
    sequence: Sequence | None = None  # the latest one
    sequences: WeakKeyDictionary[Any, Sequence] = field(default_factory=WeakKeyDictionary)

    def sequence_of(self, cache: Any) -> Sequence | None:
        """The sequence whose keys and values a cache holds; a `generate` call has one only."""
        known = None if cache is None else self.sequences.get(cache)
        return known if known is not None or self.by_hand else self.sequence

    def keep(self, sequence: Sequence, cache: Any) -> None:
        self.sequence = sequence
        if cache is not None:
            self.sequences[cache] = sequence


def only_here(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook of a module that sees what this thread runs, and leaves other threads alone."""
    thread = threading.get_ident()

    def gated(*args: Any, **kwargs: Any) -> Any:
        return hook(*args, **kwargs) if threading.get_ident() == thread else None

    return gated


def only_here_over(layer: Callable[..., Any]) -> Callable[..., Any]:
    """A layer over a method (see `layers`), likewise."""
    thread = threading.get_ident()

    def gated(under: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return layer(under, *args, **kwargs) if threading.get_ident() == thread else under(*args, **kwargs)

    return gated
