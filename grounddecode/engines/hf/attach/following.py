"""What stands on a cache while the rows of a sequence are in it. Copies and pickles of the cache hold nothing of it."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

from grounddecode.engines.hf import transformers_names
from grounddecode.engines.hf.stream import joined

if TYPE_CHECKING:
    from torch import Tensor

    from grounddecode.engines.hf.generation import Sequence

_REORDER = "reorder_cache"
_STATE = "__getstate__"  # asked by copy, deepcopy and pickle


def follow(cache: Any, sequence: Sequence, before: Sequence | None) -> None:
    """When beam search reorders the cache, reorder what is remembered of its rows and the second stream's.

    `before`: what it held until it was emptied, whose further streams have left it room for their rows.
    """
    if before is not None and before.joined is not None:
        joined.part(cache, before.rows, before.joined.rows, further=0)
    known = weakref.ref(cache)  # a cache that nobody has any more shall go at once, with its keys and values
    vars(cache)[_REORDER] = functools.partial(_reorder, known, sequence)
    vars(cache)[_STATE] = functools.partial(_state, known, sequence)


def forget(cache: Any) -> None:
    """Leave a cache as it was made."""
    for name in (_REORDER, _STATE):
        vars(cache).pop(name, None)


def _reorder(known: weakref.ref[Any], sequence: Sequence, beams: Tensor) -> None:
    cache: Any = known()
    type(cache).reorder_cache(cache, sequence.reorder(beams))


def _state(known: weakref.ref[Any], sequence: Sequence) -> dict[str, Any]:
    """What a copy of the cache is made of: the main rows alone, which is what it holds when a block has ended."""
    cache = known()
    state = {name: value for name, value in vars(cache).items() if name not in (_REORDER, _STATE)}
    if sequence.joined is not None:
        layers = joined.parted(cache, sequence.rows, sequence.joined.rows, sequence.further)
        state[transformers_names.CACHE_LAYERS] = layers
    return state
