"""Putting batches to an engine and its answers into a run folder, whatever goes wrong on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from grounddecode.engines.base import BatchError, Decoding, Engine, Request, Response
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.run.batches import Opened, Unit, opened
from grounddecode.evaluate.run.memory import out_of_memory, peak_memory, release
from grounddecode.evaluate.sample import Pictures
from grounddecode.registry import Plan
from grounddecode.secrets import hidden

log = logging.getLogger(__name__)
PATIENCE = 3  # samples that fail before anything has succeeded, until a plan is given up
PROBE = 2  # tokens of the answer that shows whether a model takes a method
LONGEST = 300  # characters of an error that are stored


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
class Answering:
    """The answers of one start of a run.

    Every method answers a batch before the next batch begins, so that their times suffer alike from a busy machine.
    A batch that does not fit into memory is halved, for this method from then on. Where a batch fails otherwise, its
    samples are asked one by one, and those that fail are recorded as failed. An engine that can tell which requests of
    a batch failed (`BatchError`) is believed: what it answered is stored, and nothing is asked twice.

    A plan that the model refuses, or that fails on all of its first samples, ends: `refused` says why, by plan.
    `known` holds the answered sample ids of each plan; answers are added to it.
    """

    engine: Engine
    folder: RunFolder
    plans: Sequence[Plan]
    seed: int
    batch_size: int
    device: str | None = None
    tell: Callable[[Progress], None] | None = None
    done: int = 0
    failed: int = 0
    total: int = 0
    known: dict[str, set[str]] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    last_errors: dict[str, str] = field(default_factory=dict)
    _first: bool = True
    _vain: dict[str, int] = field(default_factory=dict)

    def answer(self, groups: Sequence[Sequence[Unit]]) -> None:
        """Ask the batches for what has no answer yet."""
        pending = [group for group in groups if any(self._unknown(plan, group) for plan in self.plans)]
        self._probe(pending)
        for group in opened(pending, self._pictures()):
            for plan in self._going_on():
                self._answer_all(plan, self._wanted(plan, group))
            self._first = False
        for plan in self._going_on():
            if not self.known.get(plan.name):
                self._end(plan, f"{plan.name} could answer no sample: {self.last_errors.get(plan.name, 'no reason')}")

    def _pictures(self) -> Pictures:
        return Pictures(max_pixels=self.engine.max_pixels, side=self.engine.side)

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

    def _wanted(self, plan: Plan, group: Sequence[Opened]) -> list[Opened]:
        """What of a batch is asked. All of it where the draws of a sample depend on those beside it in the batch, so
        that a resumed run draws what an uninterrupted one draws."""
        whole = plan.decoding.get("do_sample") and not getattr(self.engine, "draws_alone", False)
        if whole and self._unknown(plan, [one.unit for one in group]):
            return list(group)
        return [one for one in group if self._unknown(plan, [one.unit])]

    def _probe(self, groups: Sequence[Sequence[Unit]]) -> None:
        """Before the first sample: which methods the model refuses. Others may still fail, but on samples."""
        untried = [plan for plan in self.plans if plan.methods and not self.known.get(plan.name)]
        if not untried or not groups:
            return
        (group,) = opened([groups[0]], self._pictures())
        requests = [_request(one) for one in group if one.picture is not None][:1]
        for plan in untried if requests else ():
            decoding = Decoding(max_new_tokens=PROBE, seed=self.seed, **plan.decoding)
            try:
                self.engine.generate(requests, decoding, plan.methods)
            except (ValueError, NotImplementedError) as error:
                self._end(plan, " ".join(str(error).split()) or type(error).__name__)
            except Exception:
                log.debug("the probe of %s failed", plan.name, exc_info=True)  # it may pass; the samples will tell

    def _answer_all(self, plan: Plan, group: Sequence[Opened]) -> None:
        for one in group:
            if one.picture is None:
                self._record_failure(plan, one, one.error)
        self._in_pieces(plan, [one for one in group if one.picture is not None], self.batch_size)

    def _in_pieces(self, plan: Plan, group: Sequence[Opened], size: int) -> None:
        while group:
            # Asked anew each time: a piece that did not fit has made the room smaller.
            taken = min(size, self.room.get(plan.name, size))
            self._answer(plan, group[:taken])
            group = [] if plan.name in self.refused else group[taken:]

    def _answer(self, plan: Plan, group: Sequence[Opened]) -> None:
        try:
            records, failures = self._generate(plan, group)
        except Exception as error:
            # Nothing of the error may live on: its traceback holds the tensors of the failed batch.
            full, text = out_of_memory(error), _sentence(error)
            log.debug("a batch of %s failed", plan.name, exc_info=True)
        else:
            self._keep(plan, group, records, failures)
            return
        if full:
            release()
        if len(group) == 1:
            self._fail(plan, group[0], text)
        elif full:
            half = self.room[plan.name] = len(group) // 2
            self._note(plan, group[0], f"out of memory: batches of {plan.name} are halved to {half}")
            self._in_pieces(plan, group, half)
        else:
            self._in_pieces(plan, group, 1)

    def _keep(
        self, plan: Plan, group: Sequence[Opened], records: Sequence[Record], failures: Mapping[str, str]
    ) -> None:
        if records:
            self._store(plan, group, records)
        for one in group:
            if one.unit.first.sample_id in failures:
                self._fail(plan, one, failures[one.unit.first.sample_id])

    def _generate(self, plan: Plan, group: Sequence[Opened]) -> tuple[list[Record], dict[str, str]]:
        """Records of the samples that were answered, and why others were not, by sample id."""
        requests = [_request(one) for one in group]
        length = group[0].unit.first.max_new_tokens
        decoding = Decoding(max_new_tokens=length, seed=self.seed, **plan.decoding)
        failures: dict[str, str] = {}
        with peak_memory(self.device) as peak:
            try:
                responses = self.engine.generate(requests, decoding, plan.methods)
            except BatchError as partial:
                responses = partial.responses
                failures = {sample_id: _sentence(error) for sample_id, error in partial.failures.items()}
        answered = [one for one in group if one.unit.first.sample_id not in failures]
        if [response.sample_id for response in responses] != [one.unit.first.sample_id for one in answered]:
            raise RuntimeError(f"the engine {self.engine.name} answered other samples than it was asked")
        facts = {"batch": len(group), "peak_memory_mib": peak.mib, **({"warming_up": True} if self._first else {})}
        records = [
            record
            for one, response in zip(answered, responses, strict=True)
            for record in _answers(plan, one.unit, response, facts)
        ]
        return records, failures

    def _fail(self, plan: Plan, one: Opened, text: str) -> None:
        self._record_failure(plan, one, text)
        if not self.known.get(plan.name):
            self._vain[plan.name] = self._vain.get(plan.name, 0) + 1
            if self._vain[plan.name] >= PATIENCE:
                self._end(plan, f"{plan.name} could answer none of the first {PATIENCE} samples: {text[:LONGEST]}")

    def _end(self, plan: Plan, reason: str) -> None:
        self.refused[plan.name] = hidden(reason)[: 2 * LONGEST]

    def _record_failure(self, plan: Plan, one: Opened, text: str) -> None:
        error = self.last_errors[plan.name] = text[:LONGEST]
        failure = {"method": plan.name, "response": None, "status": "failed", "error": error}
        self._store(plan, [one], [{**sample.to_dict(), **failure} for sample in one.unit.samples])

    def _store(self, plan: Plan, group: Sequence[Opened], records: Sequence[Record]) -> None:
        """Add what is new: a sample that has its answer keeps it."""
        known = self.known.setdefault(plan.name, set())
        new = [record for record in records if record["sample_id"] not in known]
        self.folder.append(new)
        known |= {record["sample_id"] for record in new if record["status"] == "ok"}
        self.failed += sum(record["status"] != "ok" for record in new)
        self.done += len(new)
        self._tell(plan, group[0])

    def _note(self, plan: Plan, one: Opened, note: str) -> None:
        self.notes.append(note)
        self._tell(plan, one, note)

    def _tell(self, plan: Plan, one: Opened, note: str = "") -> None:
        if self.tell is not None:
            benchmark = one.unit.first.benchmark
            self.tell(Progress(self.done, self.total, self.failed, plan.name, benchmark, note))


def _request(one: Opened) -> Request:
    images = () if one.picture is None else (one.picture,)
    return Request(sample_id=one.unit.first.sample_id, prompt=one.unit.first.prompt, images=images)


def _answers(plan: Plan, unit: Unit, response: Response, facts: Mapping[str, Any]) -> list[Record]:
    """One record a sample of the unit; those after the first name it in `same_as`, and cost nothing."""
    answer = {
        "method": plan.name,
        "response": response.text,
        "status": "ok",
        "n_tokens": response.n_tokens,
        "seconds": response.seconds,
        "trace": {name: value for name, value in response.trace.items() if isfinite(value)},
        **facts,
    }
    first, *others = unit.samples
    return [{**first.to_dict(), **answer}] + [
        {**other.to_dict(), **answer, "same_as": first.sample_id} for other in others
    ]


def _sentence(error: Exception) -> str:
    text = hidden(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
