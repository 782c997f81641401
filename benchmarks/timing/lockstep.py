"""Two generations that take turns, step by step, so that what slows a host down slows both: for times on a card.

A host has other guests, and for seconds all it does may take half as long again. Steps that follow each other within
milliseconds share that; whole generations, one after the other, do not.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

Generate = Callable[[list[LogitsProcessor]], None]  # a generation with these processors behind all others


def twin(model: Any) -> Any:
    """The same model in modules of its own, with the same weights in memory: methods on one are none on the other."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


class Lockstep:
    """Runs two generations of as many tokens in two threads, of which one computes at a time.

    The threads stay, since libraries keep what they have planned for a shape with the thread. On a card both stay on
    one core.
    """

    def __init__(self, first: Generate, second: Generate, on_card: bool) -> None:
        self._generate = first, second
        self._on_card = on_card
        self._threads = tuple(ThreadPoolExecutor(1, initializer=_on_one_core if on_card else None) for _ in range(2))

    def run(self, leading: int = 0) -> tuple[list[float], list[float]]:
        """Seconds of every step of each, from one sight of its logits to the next; the first ends the prefill.

        Args:
            leading: which of them takes the first turn.

        Raises:
            Exception: what one of them raised; the other goes on to its end alone.
        """
        turns = _Turns(leading)
        clocks = [_Clock(turns, number, self._on_card) for number in range(2)]
        running = [
            thread.submit(_one, turns, number, clocks[number], self._generate[number])
            for number, thread in enumerate(self._threads)
        ]
        for future in running:
            future.exception()  # both have ended before anything is raised
        for future in running:
            future.result()
        return clocks[0].seconds, clocks[1].seconds

    def close(self) -> None:
        for thread in self._threads:
            thread.shutdown()


class _Turns:
    """Whose turn it is, of two; who has left has none."""

    def __init__(self, leading: int) -> None:
        self._changed = threading.Condition()
        self._whose, self._left = leading, [False, False]

    def await_(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._whose == number or self._left[1 - number])

    def over(self, number: int) -> None:
        with self._changed:
            self._whose = 1 - number
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        with self._changed:
            self._left[number] = True
            self._changed.notify_all()


class _Clock(LogitsProcessor):
    def __init__(self, turns: _Turns, number: int, on_card: bool) -> None:
        self._turns, self._number, self._on_card = turns, number, on_card
        self.seconds: list[float] = []
        self.begin = 0.0

    def start(self) -> None:
        self._turns.await_(self._number)
        self.begin = time.perf_counter()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self._on_card:
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.begin)
        self._turns.over(self._number)
        self.start()
        return scores


def _one(turns: _Turns, number: int, clock: _Clock, generate: Generate) -> None:
    clock.start()
    try:
        with torch.no_grad():
            generate([clock])
    finally:
        turns.leave(number)


def _on_one_core() -> None:
    """This thread, and what it starts, stays on the last core that the process may use (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
