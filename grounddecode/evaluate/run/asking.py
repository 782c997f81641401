"""Asking an engine for a batch, whatever goes wrong on the way: what a worker with an engine of its own does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from grounddecode.engines.base import BatchError, Decoding, Engine, Request, Response, refusal_of
from grounddecode.evaluate.folder.store import Record
from grounddecode.evaluate.run.batches import Opened, Unit
from grounddecode.evaluate.run.memory import out_of_memory, peak_memory, release
from grounddecode.registry import Plan
from grounddecode.secrets import hidden

log = logging.getLogger(__name__)
PROBE = 2  # tokens of the answer that shows whether a model takes a method
LONGEST = 300  # characters of an error that are stored


@dataclass(frozen=True)
class Asked:
    """What became of a piece of a batch.

    Attributes:
        benchmark: of its first sample.
        records: of the samples that are through, answered or failed.
        note: a remark in one line about something that went another way than asked for, else "".
        error: what the engine failed with on its sample, else "".
    """

    benchmark: str
    records: list[Record] = field(default_factory=list)
    note: str = ""
    error: str = ""


@dataclass
class Asker:
    """An engine, and what has been learnt about it: how much it has room for.

    A batch that does not fit into memory is halved, for this method from then on. Where a batch fails otherwise, its
    samples are asked one by one, and those that fail are recorded as failed. An engine that can tell which requests of
    a batch failed (`BatchError`) is believed: what it answered counts, and nothing is asked twice.

    What goes in and what comes out can be pickled, so that all of it may happen in another process:
    `list(asker.ask(plan, group))`. Who keeps the answers may stop on the way.
    """

    engine: Engine
    seed: int = 0
    batch_size: int = 8
    _device: str | None = field(init=False)
    _room: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        device = self.engine.describe().get("device")
        self._device = device if isinstance(device, str) else None

    @property
    def draws_alone(self) -> bool:
        """Whether what is drawn for a sample does not depend on those beside it in the batch."""
        return getattr(self.engine, "draws_alone", False)

    def refusal(self, plan: Plan, group: Sequence[Opened]) -> str | None:
        """Why the model does not take the plan's methods, else None: the engine is asked, then tried on a picture."""
        told = refusal_of(self.engine, plan.methods)
        if told is not None:
            return reason(" ".join(told.split()))
        requests = [_request(one) for one in group if one.picture is not None][:1]
        if not requests:
            return None
        try:
            self.engine.generate(requests, self._decoding(plan, PROBE), plan.methods)
        except (ValueError, NotImplementedError) as error:
            return reason(" ".join(str(error).split()) or type(error).__name__)
        except Exception:
            log.debug("the probe of %s failed", plan.name, exc_info=True)  # it may pass; the samples will tell
        return None

    def ask(self, plan: Plan, group: Sequence[Opened], *, warming_up: bool = False) -> Iterator[Asked]:
        """Ask for a batch, and hand out each piece of it as soon as it is through.

        Args:
            warming_up: what is asked first in a start, which pays for what an engine does once.
        """
        for one in group:
            if one.picture is None:
                yield Asked(one.unit.first.benchmark, failed(plan, one.unit, one.error))
        readable = [one for one in group if one.picture is not None]
        yield from self._in_pieces(plan, readable, self.batch_size, warming_up)

    def _in_pieces(self, plan: Plan, group: Sequence[Opened], size: int, warming_up: bool) -> Iterator[Asked]:
        while group:
            # Asked anew each time: a piece that did not fit has made the room smaller.
            taken = min(size, self._room.get(plan.name, size))
            yield from self._piece(plan, group[:taken], warming_up)
            group = group[taken:]

    def _piece(self, plan: Plan, group: Sequence[Opened], warming_up: bool) -> Iterator[Asked]:
        try:
            records, failures = self._generate(plan, group, warming_up)
        except Exception as error:
            # Nothing of the error may live on: its traceback holds the tensors of the failed batch.
            full, text = out_of_memory(error), _sentence(error)
            log.debug("a batch of %s failed", plan.name, exc_info=True)
        else:
            if records:
                yield Asked(group[0].unit.first.benchmark, records)
            for one in group:
                if one.unit.first.sample_id in failures:
                    yield _unanswered(plan, one, failures[one.unit.first.sample_id])
            return
        if full:
            release()
        if len(group) == 1:
            yield _unanswered(plan, group[0], text)
        elif full:
            half = self._room[plan.name] = len(group) // 2
            benchmark = group[0].unit.first.benchmark
            yield Asked(benchmark, note=f"out of memory: batches of {plan.name} are halved to {half}")
            yield from self._in_pieces(plan, group, half, warming_up)
        else:
            yield from self._in_pieces(plan, group, 1, warming_up)

    def _generate(self, plan: Plan, group: Sequence[Opened], warming_up: bool) -> tuple[list[Record], dict[str, str]]:
        """Records of the samples that were answered, and why others were not, by sample id."""
        requests = [_request(one) for one in group]
        decoding = self._decoding(plan, group[0].unit.first.max_new_tokens)
        failures: dict[str, str] = {}
        with peak_memory(self._device) as peak:
            try:
                responses = self.engine.generate(requests, decoding, plan.methods)
            except BatchError as partial:
                responses = partial.responses
                failures = {sample_id: _sentence(error) for sample_id, error in partial.failures.items()}
        answered = [one for one in group if one.unit.first.sample_id not in failures]
        if [response.sample_id for response in responses] != [one.unit.first.sample_id for one in answered]:
            raise RuntimeError(f"the engine {self.engine.name} answered other samples than it was asked")
        facts = {"batch": len(group), "peak_memory_mib": peak.mib, **({"warming_up": True} if warming_up else {})}
        records = [
            record
            for one, response in zip(answered, responses, strict=True)
            for record in _answers(plan, one.unit, response, facts)
        ]
        return records, failures

    def _decoding(self, plan: Plan, length: int) -> Decoding:
        return Decoding(max_new_tokens=length, seed=self.seed, **plan.decoding)


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


def _unanswered(plan: Plan, one: Opened, text: str) -> Asked:
    return Asked(one.unit.first.benchmark, failed(plan, one.unit, text), error=text)


def failed(plan: Plan, unit: Unit, text: str) -> list[Record]:
    """Records of the samples of a unit that has no answer, and why."""
    failure = {"method": plan.name, "response": None, "status": "failed", "error": text[:LONGEST]}
    return [{**sample.to_dict(), **failure} for sample in unit.samples]


def _sentence(error: Exception) -> str:
    text = hidden(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def reason(text: str) -> str:
    return hidden(text)[: 2 * LONGEST]
