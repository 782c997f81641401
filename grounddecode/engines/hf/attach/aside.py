"""Callbacks of a decoding loop: what processors, criteria and streamers do with the model is no step of that loop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from transformers import LogitsProcessorList, StoppingCriteriaList

Aside = Callable[[], AbstractContextManager[None]]


def _called_aside(kind: type) -> type:
    """A list of callbacks of this kind that is called within its own `aside()`."""

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.aside():
            return kind.__call__(self, *args, **kwargs)

    return type(f"{kind.__name__}Aside", (kind,), {"__call__": called, "__module__": __name__})


_Processors, _Criteria = _called_aside(LogitsProcessorList), _called_aside(StoppingCriteriaList)


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
