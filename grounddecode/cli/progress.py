"""How far the work is: a bar on a terminal, a line now and then in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grounddecode.cli.errors import quiet
from grounddecode.cli.output import stderr

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from grounddecode.evaluate.run.runner import Progress

SECONDS = 15.0  # between two lines of a log


class Meter:
    """Takes reports of progress."""

    def __init__(self, bars: Bars | None, what: str) -> None:
        self._bars = bars
        self._what = what
        self._task: TaskID | None = None
        self._said = time.monotonic()
        self._pace: Pace | None = None

    @classmethod
    @contextmanager
    def shown(cls, what: str) -> Iterator[Meter]:
        """A meter for the time of the block; the bar vanishes with it."""
        if quiet() or not sys.stderr.isatty():
            yield cls(None, what)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        counts = (MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), *counts)
        with Bars(*columns, console=stderr(), transient=True) as bars:
            yield cls(bars, what)

    def say(self, text: str) -> None:
        """A remark in a line of its own, which stays."""
        if quiet():
            return
        if self._bars is not None:
            self._bars.console.print(f"{self._what}: {text}", markup=False)
        else:
            sys.stderr.write(f"{self._what}: {text}\n")
            sys.stderr.flush()

    def answers(self, progress: Progress) -> None:
        """One report of the bench."""
        if self._pace is None:
            self._pace = Pace(time.monotonic(), progress.done)
            self.say(
                f"{progress.total} answers, {progress.there} are there; Ctrl-C is safe, the same command continues"
            )
        failures = f", {progress.failed} failed" if progress.failed else ""
        note = f" ({progress.note})" if progress.note else ""
        rate = self._pace.rate(time.monotonic(), progress.done)
        self.step(f"{progress.method} on {progress.benchmark}{failures}{note}", progress.done, progress.total, rate)

    def bytes(self, file: str, done: int, total: int) -> None:
        """One report of a download."""
        self.step(file, done, total)

    def step(self, label: str, done: int, total: int, rate: float | None = None) -> None:
        """`done` of `total`, with what is going on just now, and how many a second there are."""
        if quiet():
            return
        shown = "" if rate is None else f"{rate:.3g}/s"
        if self._bars is not None:
            self._task = self._bars.add_task(label, total=total, rate="") if self._task is None else self._task
            self._bars.update(self._task, description=label, completed=done, total=total, rate=shown)
        elif done >= total or time.monotonic() - self._said >= SECONDS:
            self._said = time.monotonic()
            left = f", {shown}, {clock((total - done) / rate)} left" if rate and done < total else ""
            sys.stderr.write(f"{self._what}: {done}/{total} {label}{left}\n")
            sys.stderr.flush()


@dataclass(frozen=True)
class Pace:
    """When counting began, and how much was there: what an earlier start has answered is no speed of this one."""

    began: float
    done: int

    def rate(self, now: float, done: int) -> float | None:
        """How many a second since then; None before there is anything to tell by."""
        return (done - self.done) / (now - self.began) if done > self.done and now > self.began else None


def clock(seconds: float) -> str:
    """A length of time as people say it: `40 s`, `7 min`, `3 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
