"""The side that keeps: batches handed out to the engines of a cluster, answers put into the run folder."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from grounddecode.evaluate.cluster.connection import Cluster, joined, shares
from grounddecode.evaluate.cluster.hands import PATIENCE, Hand, Hands
from grounddecode.evaluate.cluster.worker import sizes
from grounddecode.evaluate.run.asking import Asked, failed
from grounddecode.evaluate.run.batches import Unit, open_unit
from grounddecode.evaluate.run.keeping import Keeping
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.recipe import Recipe
from grounddecode.evaluate.sample import Pictures
from grounddecode.registry import Plan


@dataclass(eq=False)
class Turn:
    """A batch on its way through the plans: one actor asks all of them, so that their times suffer alike.

    Attributes:
        at: its place among the batches of this start.
        plans: those still to be asked.
        lost: how often the process was lost that was asking the first of them.
        value: the batch with its pictures in the cluster's store, for processes that do not see them.
    """

    at: int
    group: Sequence[Unit]
    plans: deque[Plan]
    lost: int = 0
    value: Any = None

    @property
    def benchmark(self) -> str:
        return self.group[0].first.benchmark


@contextmanager
def crew(recipe: Recipe, cluster: Cluster, images: Sequence[str]) -> Iterator[Crew]:
    """Engines of the recipe on a cluster; they end with the block.

    Args:
        images: the pictures that will be asked about.

    Raises:
        ValueError: no cluster, no room, or engines that are unlike.
        RuntimeError: no engine could be opened.
    """
    with joined(cluster) as ray:
        hands = Hands(ray, recipe, cluster, shares(ray, cluster), sizes(images))
        try:
            hands.start()
            yield Crew(hands)
        finally:
            hands.close()


@dataclass
class Crew:
    """Engines on a cluster, and what a run asks of those who answer."""

    hands: Hands

    @property
    def description(self) -> dict[str, Any]:
        """Of the engine, which is the same everywhere."""
        return dict(self.hands.places[0].description)

    def session(self) -> dict[str, Any]:
        """What run.json says of this start."""
        hands = self.hands
        nodes = [
            {
                "node": place.node,
                "versions": dict(place.versions),
                "commit": place.commit,
                "hardware": dict(place.hardware),
                "device": place.description.get("device"),
            }
            for place in {place.node: place for place in hands.places}.values()
        ]
        shared = {"ray": hands.ray.__version__, "actors": hands.shares.actors, "gpus_per_actor": hands.shares.gpus}
        return {**provenance(), "device": self.description.get("device"), "cluster": {**shared, "nodes": nodes}}

    def answer(self, keeping: Keeping, groups: Sequence[Sequence[Unit]]) -> None:
        """Have the batches asked for what has no answer yet, and keep what comes back."""
        pending = enumerate(keeping.pending(groups))
        Round(self.hands, keeping, deque(Turn(at, group, deque(keeping.plans)) for at, group in pending)).go()
        keeping.end_silent_rows()


class Round:
    """The batches of one start, on their way through the actors.

    A plan that has answered nothing yet goes from one batch to the next in their order, as it does in one process,
    where it may end on the first of them: whichever actor is quicker must not decide that. An actor waits before such a
    plan with its batch, or goes on with an earlier one whose process was lost.
    """

    def __init__(self, hands: Hands, keeping: Keeping, turns: deque[Turn]) -> None:
        self._hands, self._keeping, self._waiting = hands, keeping, turns
        self._at: dict[Hand, Turn] = {}
        self._untried = deque(keeping.untried() if turns else ())
        self._tries_lost = 0

    def go(self) -> None:
        """To the end: every batch through, or every row ended."""
        self._hand_out()
        while self._waiting or self._at:
            if not self._hands.news():
                share = self._hands.shares
                note = f"no node has had room for {share.cpus:g} CPU and {share.gpus:g} GPU yet"
                self._keeping.remark(self._keeping.plans[0], "the cluster", note)
            self._hand_out()

    def _hand_out(self) -> None:
        """Give every idle actor something to do. Before the first batch, plans are tried on one of its pictures."""
        idle = self._hands.idle()
        if self._untried:
            if idle and len(idle) == len(self._hands.standing()):
                self._try(idle[0], self._untried[0])
            return
        for hand in idle:
            if hand in self._at:
                if self._waiting and self._waiting[0].at < self._at[hand].at:
                    self._back(self._at[hand])
                    self._at[hand] = self._waiting.popleft()
                self._go_on(hand)
            while hand not in self._at and self._waiting:
                self._at[hand] = self._waiting.popleft()
                self._go_on(hand)

    def _try(self, hand: Hand, plan: Plan) -> None:
        def take(why: str | None) -> None:
            self._untried.popleft()
            self._tries_lost = 0
            if why is not None:
                self._keeping.refused[plan.name] = why

        def lost(why: str) -> None:
            self._tries_lost += 1
            if self._tries_lost >= PATIENCE:
                take(f"the process that tried {plan.name} was lost {PATIENCE} times: {why}")
            self._hands.begin()

        ref = hand.actor.refusal.remote(plan.name, self._sent(hand, self._waiting[0]))
        self._hands.send(hand, ref, take, lost)

    def _go_on(self, hand: Hand) -> None:
        """Ask the next plan that has something to answer in the batch; where there is none, the batch is through."""
        turn, keeping = self._at[hand], self._keeping
        draws_alone = hand.place is not None and hand.place.draws_alone
        going_on = {plan.name for plan in keeping.going_on()}
        while turn.plans:
            plan = turn.plans[0]
            wanted = keeping.wanted(plan, turn.group, draws_alone=draws_alone) if plan.name in going_on else []
            if wanted and not self._may(plan, turn):
                return
            if wanted:
                places = [at for at, unit in enumerate(turn.group) if unit in wanted]
                ref = hand.actor.ask.remote(plan.name, self._sent(hand, turn), places, hand.fresh)
                self._hands.send(hand, ref, lambda found: self._keep(hand, found), lambda why: self._lose(hand, why))
                return
            turn.plans.popleft()
        hand.fresh = False
        del self._at[hand]

    def _may(self, plan: Plan, turn: Turn) -> bool:
        """Whether the plan has proven itself, or this batch is the first of those it has still to answer."""
        others = (other for other in (*self._at.values(), *self._waiting) if plan in other.plans)
        return self._keeping.proven(plan) or turn.at == min(other.at for other in others)

    def _keep(self, hand: Hand, pieces: Sequence[Asked]) -> None:
        turn = self._at[hand]
        self._keeping.keep(turn.plans.popleft(), pieces)
        turn.lost = 0
        self._go_on(hand)

    def _lose(self, hand: Hand, why: str) -> None:
        """The process is gone with the answers of one plan to one batch: they are asked again, of another one."""
        turn = self._at.pop(hand)
        plan = turn.plans[0]
        turn.lost += 1
        if turn.lost < PATIENCE:
            self._keeping.remark(plan, turn.benchmark, f"a process was lost, its batch is asked again: {why}")
        else:
            text = f"the process that was asked was lost {PATIENCE} times: {why}"
            unanswered = self._keeping.wanted(plan, turn.group, draws_alone=True)
            records = [record for unit in unanswered for record in failed(plan, unit, text)]
            self._keeping.keep(plan, [Asked(turn.benchmark, records)])
            turn.plans.popleft()
            turn.lost = 0
        self._back(turn)
        self._hands.begin()

    def _back(self, turn: Turn) -> None:
        insort(self._waiting, turn, key=attrgetter("at"))

    def _sent(self, hand: Hand, turn: Turn) -> Any:
        """The batch as the actor takes it: by name where it sees the pictures, else with them."""
        place = hand.place
        if place is None or place.visible:
            return list(turn.group)
        if turn.value is None:
            pictures = Pictures(max_pixels=place.max_pixels, side=place.side)
            turn.value = self._hands.ray.put([open_unit(unit, pictures) for unit in turn.group])
        return turn.value
