"""Keeping what an engine answers: the side that has the run folder, the order of the batches and the progress."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.run.asking import Asked, Asker, reason
from grounddecode.evaluate.run.batches import Opened, Unit, opened
from grounddecode.evaluate.sample import Pictures
from grounddecode.registry import Plan


@dataclass(frozen=True)
class Progress:
    """How far a run is. `done` and `total` count answers of all methods, those of an earlier start included.

    `note` is a remark in one line about something that went another way than asked for, else "".
    """

    done: int
    total: int
    failed: int
    method: str
    benchmark: str
    note: str = ""


@dataclass
class Keeping:
    """The answers of one start of a run, on their way into its folder.

    Every method answers a batch before the next batch begins, so that their times suffer alike from a busy machine.
    A plan that the model refuses, or that is given up, ends: `refused` says why, by plan. `known` holds the answered
    sample ids of each plan; answers are added to it.
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

    def answer(self, groups: Sequence[Sequence[Unit]], asker: Asker) -> None:
        """Ask the batches for what has no answer yet."""
        pending = [group for group in groups if any(self._unknown(plan, group) for plan in self.plans)]
        asker.proven |= {plan.name for plan in self.plans if self.known.get(plan.name)}
        pictures = Pictures(max_pixels=asker.engine.max_pixels, side=asker.engine.side)
        self._refuse_beforehand(pending[:1], asker, pictures)
        for at, group in enumerate(opened(pending, pictures)):
            for plan in self._going_on():
                for asked in asker.ask(plan, self._wanted(plan, group, asker), warming_up=at == 0):
                    self._keep(plan, asked)
        for plan in self._going_on():
            if not self.known.get(plan.name):
                why = self.last_errors.get(plan.name, "no reason")
                self.refused[plan.name] = reason(f"{plan.name} could answer no sample: {why}")

    def refuse_silence(self) -> None:
        """Raises RuntimeError where no plan could answer anything: that is no result."""
        if self.refused and not any(self.known.get(plan.name) for plan in self.plans):
            raise RuntimeError(next(iter(self.refused.values())))

    def _going_on(self) -> Iterator[Plan]:
        return (plan for plan in self.plans if plan.name not in self.refused)

    def _unknown(self, plan: Plan, units: Iterable[Unit]) -> bool:
        """Whether a sample of the units has no answer."""
        known: Container[str] = self.known.get(plan.name, ())
        return any(sample.sample_id not in known for unit in units for sample in unit.samples)

    def _wanted(self, plan: Plan, group: Sequence[Opened], asker: Asker) -> list[Opened]:
        """What of a batch is asked. All of it where the draws of a sample depend on those beside it in the batch, so
        that a resumed run draws what an uninterrupted one draws."""
        whole = plan.decoding.get("do_sample") and not asker.draws_alone
        if whole and self._unknown(plan, [one.unit for one in group]):
            return list(group)
        return [one for one in group if self._unknown(plan, [one.unit])]

    def _refuse_beforehand(self, groups: Sequence[Sequence[Unit]], asker: Asker, pictures: Pictures) -> None:
        """Before the first sample: which methods the model refuses. Others may still fail, but on samples."""
        untried = [plan for plan in self.plans if plan.methods and not self.known.get(plan.name)]
        for group in opened(groups if untried else [], pictures):
            for plan in untried:
                if (why := asker.refusal(plan, group)) is not None:
                    self.refused[plan.name] = why

    def _keep(self, plan: Plan, asked: Asked) -> None:
        if asked.records:
            self._store(plan, asked.records)
            self._tell(plan, asked.benchmark)
        if asked.note:
            self.notes.append(asked.note)
            self._tell(plan, asked.benchmark, asked.note)
        if asked.ended:
            self.refused[plan.name] = asked.ended

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
            self.tell(Progress(self.done, self.total, self.failed, plan.name, benchmark, note))
