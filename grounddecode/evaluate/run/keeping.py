"""Keeping what an engine answers: the side that has the run folder, the order of the batches and the progress."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.run.asking import LONGEST, Asked, Asker, reason
from grounddecode.evaluate.run.batches import Opened, Unit, opened
from grounddecode.evaluate.sample import Pictures
from grounddecode.registry import Plan

PATIENCE = 3  # samples that fail before anything has succeeded, until a plan is given up
Piece = TypeVar("Piece", Unit, Opened)


@dataclass(frozen=True)
class Progress:
    """How far a run is. `done` and `total` count answers of all methods, those of an earlier start included.

    `note` is a remark in one line about something that went another way than asked for, else "". `there`: how many an
    earlier start had answered.
    """

    done: int
    total: int
    failed: int
    method: str
    benchmark: str
    note: str = ""
    there: int = 0


@dataclass
class Keeping:
    """The answers of one start of a run, on their way into its folder.

    Every method answers a batch before the next batch begins, so that their times suffer alike from a busy machine.
    A plan that the model refuses ends, and so does one that the engine fails with on all of its first samples:
    `refused` says why, by plan. `known` holds the answered sample ids of each plan, those of an earlier start included;
    answers are added to it.
    """

    folder: RunFolder
    plans: Sequence[Plan]
    tell: Callable[[Progress], None] | None = None
    known: dict[str, set[str]] = field(default_factory=dict)
    done: int = 0
    total: int = 0
    failed: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    last_errors: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._there = self.done
        self._vain: dict[str, int] = {}

    def answer(self, groups: Sequence[Sequence[Unit]], asker: Asker) -> None:
        """Ask the batches, in this process, for what has no answer yet."""
        pending = self.pending(groups)
        pictures = Pictures(max_pixels=asker.engine.max_pixels, side=asker.engine.side)
        self._refuse_beforehand(pending[:1], asker, pictures)
        for at, group in enumerate(opened(pending, pictures)):
            for plan in self.going_on():
                wanted = self.wanted(plan, group, draws_alone=asker.draws_alone)
                self.keep(plan, asker.ask(plan, wanted, warming_up=at == 0))
        self.end_silent_rows()

    def pending(self, groups: Sequence[Sequence[Unit]]) -> list[Sequence[Unit]]:
        """The batches in which a plan has something to answer."""
        return [group for group in groups if any(self._unknown(plan, group) for plan in self.plans)]

    def proven(self, plan: Plan) -> bool:
        """Whether the plan has answered something: no failure ends it any more."""
        return bool(self.known.get(plan.name))

    def untried(self) -> list[Plan]:
        """Plans with methods that have answered nothing yet: whether the model takes them is asked beforehand."""
        return [plan for plan in self.plans if plan.methods and not self.proven(plan)]

    def going_on(self) -> Iterator[Plan]:
        """The plans whose rows have not ended."""
        return (plan for plan in self.plans if plan.name not in self.refused)

    def wanted(self, plan: Plan, group: Sequence[Piece], *, draws_alone: bool) -> list[Piece]:
        """What of a batch is asked. All of it where the draws of a sample depend on those beside it in the batch, so
        that a resumed run draws what an uninterrupted one draws."""
        whole = plan.decoding.get("do_sample") and not draws_alone
        if whole and self._unknown(plan, map(_unit, group)):
            return list(group)
        return [one for one in group if self._unknown(plan, [_unit(one)])]

    def keep(self, plan: Plan, pieces: Iterable[Asked]) -> None:
        """Store what became of the pieces of a batch, in their order, until the plan ends."""
        for asked in pieces:
            if asked.records:
                self._store(plan, asked.records)
                self._tell(plan, asked.benchmark)
            if asked.note:
                self.remark(plan, asked.benchmark, asked.note)
            if asked.error and not self.proven(plan):
                self._vain[plan.name] = self._vain.get(plan.name, 0) + 1
                if self._vain[plan.name] == PATIENCE:
                    text = f"{plan.name} could answer none of the first {PATIENCE} samples: {asked.error[:LONGEST]}"
                    self.refused[plan.name] = reason(text)
                    return

    def remark(self, plan: Plan, benchmark: str, note: str) -> None:
        """Tell and remember what went another way than asked for."""
        self.notes.append(note)
        self._tell(plan, benchmark, note)

    def end_silent_rows(self) -> None:
        """When everything was asked: a plan without any answer has ended."""
        for plan in self.going_on():
            if not self.proven(plan):
                why = self.last_errors.get(plan.name, "no reason")
                self.refused[plan.name] = reason(f"{plan.name} could answer no sample: {why}")

    def refuse_silence(self) -> None:
        """Raises RuntimeError where no plan could answer anything: that is no result."""
        if self.refused and not any(map(self.proven, self.plans)):
            raise RuntimeError(next(iter(self.refused.values())))

    def _unknown(self, plan: Plan, units: Iterable[Unit]) -> bool:
        """Whether a sample of the units has no answer."""
        known: Container[str] = self.known.get(plan.name, ())
        return any(sample.sample_id not in known for unit in units for sample in unit.samples)

    def _refuse_beforehand(self, groups: Sequence[Sequence[Unit]], asker: Asker, pictures: Pictures) -> None:
        """Before the first sample: which methods the model refuses. Others may still fail, but on samples."""
        untried = self.untried()
        for group in opened(groups if untried else [], pictures):
            for plan in untried:
                if (why := asker.refusal(plan, group)) is not None:
                    self.refused[plan.name] = why

    def _store(self, plan: Plan, records: Sequence[Record]) -> None:
        """Add what is new: a sample that has its answer keeps it."""
        known = self.known.setdefault(plan.name, set())
        new = [record for record in records if record["sample_id"] not in known]
        self.folder.append(new)
        known |= {record["sample_id"] for record in new if record["status"] == "ok"}
        failed = [record for record in new if record["status"] != "ok"]
        self.last_errors |= {record["method"]: record["error"] for record in failed}
        self.failed += len(failed)
        self.done += len(new)

    def _tell(self, plan: Plan, benchmark: str, note: str = "") -> None:
        if self.tell is not None:
            self.tell(Progress(self.done, self.total, self.failed, plan.name, benchmark, note, self._there))


def _unit(piece: Unit | Opened) -> Unit:
    return piece.unit if isinstance(piece, Opened) else piece
