"""What methods remember of rows: a tensor with the rows first, or a tuple or dict of such; None: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _mapped(change: Callable[..., Tensor], *states: Any) -> Any:
    """States of one form, their tensors changed together."""
    first = states[0]
    if isinstance(first, Tensor):
        return change(*states)
    if isinstance(first, dict):
        return {key: _mapped(change, *(state[key] for state in states)) for key in first}
    if isinstance(first, tuple):
        return tuple(_mapped(change, *entries) for entries in zip(*states, strict=True))
    if first is not None:
        raise ValueError(f"a state holds a {type(first).__name__}, give tensors, tuples and dicts of them, or None")
    return None


def rows_of(state: Any, rows: Tensor) -> Any:
    """The state of some rows, by index."""
    return _mapped(lambda kept: kept[rows.to(kept.device)], state)


def begun(state: Any, fresh: Tensor, started: Any) -> Any:
    """The state of rows some of which are `fresh`, bool (R,): those have what they started with, zeros if nothing."""
    if state is None:
        return started
    known = started if started is not None else _mapped(torch.zeros_like, state)

    def change(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(fresh.to(old.device).view(-1, *[1] * (old.dim() - 1)), new, old)

    return _mapped(change, state, known)


def stored(store: Any, slots: Tensor, state: Any, count: int) -> Any:
    """The state of `count` slots with that of some of them set anew; what was not set yet is 0."""
    if state is None:
        return store
    if store is None:
        store = _mapped(lambda kept: kept.new_zeros(count, *kept.shape[1:]), state)
    return _mapped(lambda old, new: old.index_copy(0, slots.to(old.device), new.to(old.dtype)), store, state)
