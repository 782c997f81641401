"""Callbacks of a decoding loop: what processors, criteria and streamers do with the model is no step of that loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from transformers import LogitsProcessorList, StoppingCriteriaList

Aside = Callable[[], AbstractContextManager[None]]


class _Processors(LogitsProcessorList):  # type: ignore[misc]  # transformers is untyped
    aside: Aside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.aside():
            return super().__call__(*args, **kwargs)


class _Criteria(StoppingCriteriaList):  # type: ignore[misc]
    aside: Aside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.aside():
            return super().__call__(*args, **kwargs)


class _Streamer:
    def __init__(self, streamer: Any, aside: Aside) -> None:
        self._streamer, self._aside = streamer, aside

    def put(self, value: Any) -> None:
        with self._aside():
            self._streamer.put(value)

    def end(self) -> None:
        with self._aside():
            self._streamer.end()


def set_aside(arguments: dict[str, Any], aside: Aside) -> dict[str, Any]:
    """Arguments of a decoding loop whose callbacks are called within `aside()`."""
    changed = dict(arguments)
    for name, kind in (("logits_processor", _Processors), ("stopping_criteria", _Criteria)):
        if changed.get(name) is not None:
            changed[name] = kind(changed[name])
            changed[name].aside = aside
    if changed.get("streamer") is not None:
        changed["streamer"] = _Streamer(changed["streamer"], aside)
    return changed
