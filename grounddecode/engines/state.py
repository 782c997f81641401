"""What methods remember of rows: a tensor with the rows first, or a tuple or dict of such; None: nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from grounddecode.method import Needs
from grounddecode.view import Phase, StepView

if TYPE_CHECKING:
    from grounddecode.calibration import Calibration
    from grounddecode.method import Method

MOST = 2**20
"""Numbers that a method may remember of one request, where it shares a machine with those of others."""


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


def stored(store: Any, places: Tensor, state: Any, count: int) -> Any:
    """The state of `count` places with that of some of them set anew; what was not set yet is 0."""
    if state is None:
        return store
    if store is None:
        store = _mapped(lambda kept: kept.new_zeros(count, *kept.shape[1:]), state)
    return _mapped(lambda old, new: old.index_copy(0, places.to(old.device), new.to(old.dtype)), store, state)


def roomy(store: Any, count: int) -> Any:
    """The state of `count` places at least: further ones are 0."""

    def change(old: Tensor) -> Tensor:
        more = count - len(old)
        return old if more <= 0 else torch.cat([old, old.new_zeros(more, *old.shape[1:])])

    return _mapped(change, store)


def too_large(method: Method, n_layers: int, vocabulary: int) -> str | None:
    """Why what a method remembers of a request has no room, in one sentence; None if it has. Nothing is allocated."""
    needs = method.active_needs()
    if not (Needs.MEMORY | Needs.CANDIDATES) & needs:
        return None
    try:
        with torch.device("meta"):
            row = torch.zeros(1, dtype=torch.long)
            view = StepView(
                phase=Phase.PROMPT, step=0, n_layers=n_layers, slots=row, queries=row, keys=row, prompt_length=row,
                image=row[None] == 0, image_end=row,
            )  # fmt: skip
            state = method.start(view)
            if Needs.MEMORY in needs:
                state = method.remember(torch.zeros(1, vocabulary), view.with_(state=state))
            many = _numbers(state)
    except Exception as error:
        return f"{method.name}: what it remembers of a request cannot be measured ({error}), make it of shapes alone"
    if many <= MOST:
        return None
    return f"{method.name} would remember {many} numbers of each request, give hyper-parameters for at most {MOST}"


def unmet(methods: Sequence[Method], knowledge: Calibration | None, n_layers: int, vocabulary: int) -> str | None:
    """What methods miss of a model of which this is known, in one sentence; None: nothing."""
    try:
        reasons = (too_large(m.calibrated(knowledge), n_layers, vocabulary) for m in methods)
        return next((reason for reason in reasons if reason is not None), None)
    except ValueError as error:
        return str(error)


def _numbers(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel()
    return sum(map(_numbers, state.values() if isinstance(state, dict) else state or ()))
