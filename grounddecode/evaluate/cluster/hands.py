"""Actors: started, sent on errands, lost and replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from grounddecode.evaluate.cluster.connection import Cluster, Shares
from grounddecode.evaluate.cluster.likeness import refuse_unlike
from grounddecode.evaluate.cluster.worker import Place, Worker
from grounddecode.evaluate.run.recipe import Recipe

PATIENCE = 3  # losses of one question, or of starts in a row, until it is given up
PATIENT = 60.0  # seconds without news after which it is said that the cluster has no room
PARTING = 10.0  # seconds that an engine has to end


@dataclass(eq=False)
class Hand:
    """One actor. `place` is there when its engine is; `fresh` until its first batch is through."""

    actor: Any
    place: Place | None = None
    fresh: bool = True


@dataclass(frozen=True)
class Errand:
    """What an actor was sent to do: what is done with what comes back, and what when the process is lost."""

    hand: Hand
    take: Callable[[Any], None]
    lost: Callable[[str], None]


@dataclass
class Hands:
    """The actors of one start of a run. An actor is never restarted by Ray: a new one is used when its engine stands.

    Attributes:
        images: bytes of the pictures that will be asked about, by path.
        places: what every engine said that came up, in that order.
    """

    ray: ModuleType
    recipe: Recipe
    cluster: Cluster
    shares: Shares
    images: Mapping[str, int]
    places: list[Place] = field(default_factory=list)
    _all: list[Hand] = field(default_factory=list)
    _errands: dict[Any, Errand] = field(default_factory=dict)
    _starts_lost: int = 0

    def start(self) -> None:
        """Start all actors and wait for the first engine. Raises RuntimeError where none comes up."""
        for _ in range(self.shares.actors):
            self.begin()
        while not self.places:
            self.news()

    def begin(self) -> None:
        """Start an actor; where no node has room, it waits for one."""
        kind = self.ray.remote(_Actor).options(
            num_cpus=self.shares.cpus,
            num_gpus=self.shares.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        hand = Hand(kind.remote(self.recipe, os.getcwd(), self.cluster.opens))
        self._all.append(hand)
        self.send(hand, hand.actor.open.remote(self.images), lambda place: self._stands(hand, place), self._no_start)

    def standing(self) -> list[Hand]:
        """Those whose engine is there."""
        return [hand for hand in self._all if hand.place is not None]

    def idle(self) -> list[Hand]:
        """Those of them that are on no errand."""
        busy = {errand.hand for errand in self._errands.values()}
        return [hand for hand in self.standing() if hand not in busy]

    def send(self, hand: Hand, ref: Any, take: Callable[[Any], None], lost: Callable[[str], None]) -> None:
        """Remember what an actor is doing."""
        self._errands[ref] = Errand(hand, take, lost)

    def news(self) -> bool:
        """Wait for one thing to come back, and deal with it; False where there is no room for any engine."""
        ready, _ = self.ray.wait(list(self._errands), num_returns=1, timeout=PATIENT)
        for ref in ready:
            errand = self._errands.pop(ref)
            try:
                found = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                self._drop(errand.hand)
                errand.lost(_told(error))
            else:
                errand.take(found)
        return bool(ready or self.standing())

    def close(self) -> None:
        """End every actor, its engine first."""
        parting = [hand.actor.close.remote() for hand in self.standing()]
        if parting:
            self.ray.wait(parting, num_returns=len(parting), timeout=PARTING)
        for hand in self._all:
            self.ray.kill(hand.actor)
        self._all.clear()

    def _stands(self, hand: Hand, place: Place) -> None:
        if place.error:
            self._drop(hand)
            self._no_start(place.error)
            return
        refuse_unlike([*self.places, place])
        self._starts_lost = 0
        hand.place = place
        self.places.append(place)

    def _no_start(self, why: str) -> None:
        """One that did not come up is tried anew, but not for ever."""
        self._starts_lost += 1
        if self._starts_lost < PATIENCE:
            self.begin()
        elif not self.standing():
            raise RuntimeError(f"no engine could be started on the cluster: {why}")

    def _drop(self, hand: Hand) -> None:
        self._all.remove(hand)
        self.ray.kill(hand.actor)


class _Actor(Worker):
    """A worker that knows its node."""

    def __init__(self, recipe: Recipe, folder: str, opens: Callable[..., Any]) -> None:
        import ray

        super().__init__(recipe, folder, ray.get_runtime_context().get_node_id(), opens)


_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def _told(error: Exception) -> str:
    """One sentence of what Ray says of a loss: the first, or the last where that is an exception's own."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()] or [""]
    raised = any(line.startswith('File "') for line in lines)
    return f"{type(error).__name__}: {lines[-1] if raised else lines[0]}"[:300]
