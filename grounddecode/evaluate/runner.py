"""The bench: a model, methods and benchmarks in; a run folder and one object of metrics out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.engines.base import ENGINES, open_engine
from grounddecode.evaluate.answering import Answering, Progress
from grounddecode.evaluate.batches import shard_of, units
from grounddecode.evaluate.benchmarks import EVALUATION, LAB_DATA, Wanted, load
from grounddecode.evaluate.chair import PATTERN, default_flavour
from grounddecode.evaluate.measure import Scoring
from grounddecode.evaluate.merging import merge
from grounddecode.evaluate.metrics import rehearse
from grounddecode.evaluate.plans import Plan, plans
from grounddecode.evaluate.provenance import calibration, provenance, weights
from grounddecode.evaluate.rescoring import finish, rescore
from grounddecode.evaluate.samples import Sample, fingerprint
from grounddecode.evaluate.settings import digest, engine_facts, plain, refuse_others
from grounddecode.evaluate.store import RUN, Record, RunFolder
from grounddecode.registry import nearest

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine

__all__ = ["Progress", "bench", "merge", "rescore"]
FORMAT = 1


@dataclass(frozen=True)
class _Task:
    """What a run is to do, checked, before anything heavy is opened."""

    settings: dict[str, Any]
    plans: list[Plan]
    samples: list[Sample]
    data: str
    flavour: str
    engine_options: Mapping[str, Any]


def bench(
    model: str,
    out: Path | str,
    *,
    engine: str = "hf",
    methods: Sequence[str] = ("greedy",),
    benchmarks: Sequence[str] = ("pope", "chair"),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    data: Path | str | None = None,
    split: str = EVALUATION,
    shard: str | None = None,
    max_new_tokens: int | None = None,
    pope_rule: str = "official",
    chair_flavour: str | None = None,
    amber_similarity: str = "exact",
    resamples: int = 1000,
    drop_unfinished: bool = False,
    engine_options: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    opened: Engine | None = None,
) -> dict[str, Any]:
    """Answer every sample of the benchmarks with every method, score the answers, and write a run folder.

    The same call with the same folder resumes: answered samples are kept, failed ones are asked again. Killed at any
    moment, a run loses the batch in flight at most.

    Args:
        model: "lab", "lab:NAME", a folder, a hub id, or whatever the engine takes.
        out: the run folder; made if need be.
        engine: an engine by name, see `grounddecode.engines.base`.
        methods: plans, see `grounddecode.evaluate.plans.plan`; methods decode greedily unless they say otherwise.
        benchmarks: of `grounddecode.evaluate.benchmarks.names()`.
        limit: at most so many samples of each split of a benchmark; None: all.
        seed: of sampling.
        batch_size: samples asked at once, 1 or more. Padding can change answers a little; 1 for reference runs.
        data: folder of the benchmarks' data; None: the lab's drawn scenes.
        split: of the lab's scenes: "evaluation", or "calibration" to choose settings on.
        shard: "i/n", i from 1 to n: answer only every n-th picture; see `grounddecode.evaluate.merging.merge`.
        max_new_tokens: of captions; None: 60 on the lab, 512 elsewhere.
        pope_rule, chair_flavour, amber_similarity: how answers are scored; CHAIR's flavour is by default `pattern` on
            the lab, else `grounddecode.evaluate.chair.default_flavour()`.
        resamples: of the bootstrap.
        drop_unfinished: score CHAIR captions that were cut at `max_new_tokens` without the sentence that the cut left
            unfinished.
        engine_options: passed on to the engine, such as `{"device": "cuda:1"}`.
        progress: called after every batch of every method.
        opened: an engine to use instead of opening one; it is not closed.

    Returns:
        What metrics.json holds: `{"results": ..., "run": ...}`, see `grounddecode.evaluate.metrics.results`; `run` is
        run.json and `n_answers`, `n_failed`.

    Raises:
        ValueError: a name, setting or folder that cannot be used; a folder that holds a run of other settings.
        RuntimeError: a method that could answer nothing.
    """
    root = None if data in (None, LAB_DATA) else Path(str(data))
    chair_flavour = chair_flavour or (PATTERN if root is None else default_flavour())
    scoring = Scoring(pope_rule, chair_flavour, amber_similarity, resamples, str(root or LAB_DATA), drop_unfinished)
    wanted = Wanted(root=root, limit=limit, max_new_tokens=max_new_tokens, flavour=chair_flavour, split=split)
    choices = {"seed": seed, "batch_size": batch_size, "shard": shard}
    name = _engine_name(engine, opened)
    task = _task(model, name, plans(methods), benchmarks, wanted, choices, engine_options or {})
    rehearse(task.samples, scoring)
    with RunFolder(out) as folder:
        stored = _resumable(folder, task)
        if stored is None or _missing(task, folder.records()):
            _generate(task, folder, stored, opened, progress)
        truths = {sample.sample_id: sample.facts["truth"] for sample in task.samples if sample.benchmark == "chair"}
        return finish(folder, scoring, truths)


def _engine_name(engine: str, opened: Engine | None) -> str:
    if opened is not None:
        return opened.name
    if engine not in ENGINES:
        raise ValueError(nearest(engine, ENGINES, "engine"))
    return engine


def _resumable(folder: RunFolder, task: _Task) -> dict[str, Any] | None:
    """What is stored of the run in a folder; refuses a run of other settings."""
    stored = folder.run()
    if stored is None and folder.records():
        raise ValueError(f"{str(folder.path)!r} holds answers but no {RUN}: give an empty folder")
    if stored is not None:
        refuse_others(str(folder.path), stored["settings"], task.settings)
    return stored


def _task(
    model: str,
    engine: str,
    chosen: list[Plan],
    benchmarks: Sequence[str],
    wanted: Wanted,
    choices: Mapping[str, Any],
    engine_options: Mapping[str, Any],
) -> _Task:
    if choices["batch_size"] < 1:
        raise ValueError(f"batch_size is {choices['batch_size']}: give at least 1")
    samples = shard_of(load(benchmarks, wanted), choices["shard"])
    if not samples:
        raise ValueError(f"shard {choices['shard']} holds no sample: give fewer shards")
    measured = calibration(model, engine_options.get("calibration"))
    settings = {
        "model": model,
        "engine": engine,
        "engine_options": _lasting(engine_options),
        **({} if measured is None else {"calibration": measured}),
        "methods": sorted(plan.name for plan in chosen),
        "benchmarks": sorted(set(benchmarks)),
        **choices,
        "limit": wanted.limit,
        "max_new_tokens": wanted.max_new_tokens,
        **({} if wanted.split == EVALUATION else {"split": wanted.split}),  # older folders say nothing, and mean it
        "data": LAB_DATA if wanted.root is None else "folder",
        "plans": {plan.name: plan.to_dict() for plan in chosen},
        "weights": weights(model),
        "questions": fingerprint(samples),
    }
    return _Task(settings, chosen, samples, str(wanted.root or LAB_DATA), wanted.flavour, engine_options)


def _lasting(engine_options: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's options without those that shards of one run may differ in: the device, a calibration's path."""
    paths = {key for key in ("calibration",) if isinstance(engine_options.get(key), str | Path)}
    return {key: plain(value) for key, value in engine_options.items() if key != "device" and key not in paths}


def _missing(task: _Task, records: Sequence[Record]) -> bool:
    known = _answered(task, records)
    return any(sample.sample_id not in known[plan.name] for plan in task.plans for sample in task.samples)


def _answered(task: _Task, records: Sequence[Record]) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {plan.name: set() for plan in task.plans}
    for record in records:
        if record["status"] == "ok":
            known[record["method"]].add(record["sample_id"])
    return known


def _generate(
    task: _Task,
    folder: RunFolder,
    stored: dict[str, Any] | None,
    opened: Engine | None,
    progress: Callable[[Progress], None] | None,
) -> None:
    """Ask the engine what has no answer yet, and keep account of it in run.json."""
    settings = task.settings
    engine = opened or open_engine(settings["engine"], settings["model"], **task.engine_options)
    try:
        description = engine.describe()
        run = stored or _new_run(task, description)
        refuse_others(str(folder.path), engine_facts(run["engine"]), engine_facts(description))
        session = {"started": _now(), **provenance(), "device": description.get("device")}
        run["sessions"] = [*run["sessions"], session]
        folder.write_run(run)
        known = _answered(task, folder.records())
        device = description.get("device")
        answering = Answering(
            engine,
            folder,
            task.plans,
            settings["seed"],
            settings["batch_size"],
            device=device if isinstance(device, str) else None,
            tell=progress,
            done=sum(len(ids) for ids in known.values()),
            total=len(task.samples) * len(task.plans),
            succeeded={name for name, ids in known.items() if ids},
        )
        begin = time.perf_counter()
        try:
            answering.answer(units(task.samples), known)
        finally:
            session |= {"seconds": time.perf_counter() - begin, "notes": answering.notes}
            folder.write_run(run)
    finally:
        if opened is None:
            engine.close()


def _new_run(task: _Task, description: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "hash": digest(task.settings),
        "settings": task.settings,
        "methods": [plan.name for plan in task.plans],
        "data": task.data,
        "chair_flavour": task.flavour,  # whose ground truth is stored with the answers
        "engine": dict(description),
        **provenance(),
        "parts": list(dict.fromkeys(sample.sample_id.rpartition("/")[0] for sample in task.samples)),
        "n_samples": len(task.samples),
        "sessions": [],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
