"""How many tokens each method had a hand in, and how many it changed: counted in the worker, told under `/metrics`.

The two are processes of their own. What a worker has counted lies in a small file, which nobody else writes to, and
which its frontend reads when it is asked; how the files' names begin is in the environment that all have from the
process that started them.
"""

from __future__ import annotations

import atexit
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grounddecode.engines.choose import MODEL, Look

if TYPE_CHECKING:
    from torch import Tensor

PLACE = "GROUNDDECODE_TALLY"
_COUNTS = np.dtype([("method", "S40"), ("tokens", "i8"), ("changed", "i8")])
_MOST = 64  # methods
_PATIENCE = 32  # steps until the device is asked what has changed


def agree_on_a_place() -> None:
    """Name the files, in the first process that comes here; each is made when there is something to count.

    That process outlives those that it starts, so it takes the files away.
    """
    if PLACE in os.environ:
        return
    place = os.environ[PLACE] = str(Path(tempfile.gettempdir()) / f"grounddecode-{secrets.token_hex(8)}")
    atexit.register(_take_away, place)


def mark() -> str:
    """A name for one request, by which its frontend and workers know it; all are of one length."""
    return secrets.token_hex(8)


def failed(marks: Iterable[str]) -> None:
    """A method has failed in this worker: the answers to these requests are not surely those of their methods."""
    place, told = os.environ.get(PLACE), "".join(f"{one}\n" for one in marks)
    if place is not None and told:
        with _failure(place).open("a", encoding="utf-8") as file:
            file.write(told)  # before the step ends, so before any answer that it has a part in


def has_failed(mark: str) -> bool:
    """Whether one has of that request, in any worker of this server."""
    place = os.environ.get(PLACE)
    return place is not None and _failure(place).exists() and mark.encode() in _failure(place).read_bytes()


def _failure(place: str) -> Path:
    return Path(f"{place}-failed")


def _counted(place: str) -> list[Path]:
    """The files of all workers that have counted something."""
    return list(Path(place).parent.glob(f"{Path(place).name}-by-*"))


def _take_away(place: str) -> None:
    for file in (*_counted(place), _failure(place)):
        file.unlink(missing_ok=True)


class Tally:
    """The counts of one worker.

    Args:
        place: how the files are called, to which it adds its process; None: nobody is told, as of all ranks but the
            first of an engine.
    """

    def __init__(self, place: str | None) -> None:
        counts: Any = np.zeros(_MOST, _COUNTS)
        if place is not None:
            mine = Path(f"{place}-by-{os.getpid()}")  # where another engine of this process may count already
            counts = np.memmap(mine, _COUNTS, "r+" if mine.is_file() else "w+", shape=(_MOST,))
        self._counts = np.asarray(counts)  # the same memory, without what a memmap does at each look
        self._tokens, self._moved = self._counts["tokens"], self._counts["changed"]
        self._rows: dict[str, int] = {}  # where each method is counted
        self._changed: dict[str, Tensor] = {}  # on the device, since the last look there
        self._best: Tensor | None = None
        self._steps = 0

    def tokens(self, methods: Iterable[str], count: int) -> None:
        """So many tokens are chosen from logits of requests with these methods."""
        for method in methods:
            self._tokens[self._row(method)] += count

    def look(self) -> Look:
        """To be shown the logits of a step: counts where the most probable token is another behind a method."""
        self._best = None

        def look(whose: str, logits: Tensor) -> None:
            if whose.endswith(".second"):
                return
            before, self._best = self._best, logits.argmax(dim=-1)
            if whose != MODEL and before is not None:
                moved = (before != self._best).sum()
                self._changed[whose] = self._changed[whose] + moved if whose in self._changed else moved

        return look

    def settle(self, at_once: bool = False) -> None:
        """Once a step: now and then, or `at_once`, what the device has counted is written down."""
        self._steps += 1
        if self._changed and (at_once or self._steps % _PATIENCE == 0):
            for method, moved in self._changed.items():
                self._moved[self._row(method)] += int(moved)
            self._changed.clear()

    def told(self) -> dict[str, tuple[int, int]]:
        """Tokens and changed ones by method, as written down."""
        return dict(_entries(self._counts))

    def _row(self, method: str) -> int:
        if method not in self._rows:
            name = method.encode()[:40]
            at = next((i for i, known in enumerate(self._counts["method"]) if known in (name, b"")), _MOST - 1)
            self._counts["method"][at] = name
            self._rows[method] = at
        return self._rows[method]


def _entries(counts: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for row in counts:
        if row["method"]:
            yield row["method"].decode(), (int(row["tokens"]), int(row["changed"]))


class Collected:
    """What `/metrics` tells of the files: a collector of prometheus_client."""

    def __init__(self, place: str) -> None:
        self.place = place

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        tokens = CounterMetricFamily("grounddecode_tokens", "Tokens of requests with a method.", labels=["method"])
        changed = CounterMetricFamily(
            "grounddecode_tokens_changed", "Those whose most probable token a method has changed.", labels=["method"]
        )
        sums: dict[str, tuple[int, int]] = {}
        for file in _counted(self.place):
            for method, (all_, moved) in _entries(np.memmap(file, _COUNTS, "r", shape=(_MOST,))):
                before = sums.get(method, (0, 0))
                sums[method] = before[0] + all_, before[1] + moved
        for method, (all_, moved) in sums.items():
            tokens.add_metric([method], all_)
            changed.add_metric([method], moved)
        yield from (tokens, changed)


def telling_too(original: Callable[..., Any]) -> Callable[..., Any]:
    """`MultiProcessCollector.collect`, all that `/metrics` asks where several processes serve: it knows no others."""

    def collect(self: Any) -> Iterator[Any]:
        yield from original(self)
        yield from Collected(os.environ[PLACE]).collect()

    return collect
