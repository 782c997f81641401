"""The bench: a model, methods and benchmarks in; a run folder and one object of metrics out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grounddecode.engines.base import ENGINES
from grounddecode.evaluate.cluster.crew import crew
from grounddecode.evaluate.folder.run_file import RunFile, Session, checked
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.results.results import rehearse
from grounddecode.evaluate.run.alone import Alone, alone
from grounddecode.evaluate.run.keeping import Keeping, Progress
from grounddecode.evaluate.run.merge import merge
from grounddecode.evaluate.run.provenance import provenance
from grounddecode.evaluate.run.recipe import Recipe, digest, engine_facts, read, refuse_others
from grounddecode.evaluate.run.rescore import finish, rescore
from grounddecode.evaluate.run.task import Task, task_of
from grounddecode.evaluate.sample import LAB_DATA
from grounddecode.registry import nearest

if TYPE_CHECKING:
    from grounddecode.engines.base import Engine
    from grounddecode.evaluate.cluster.connection import Cluster
    from grounddecode.evaluate.cluster.crew import Crew

__all__ = ["Progress", "Recipe", "bench", "merge", "rescore", "run"]
FORMAT = 1


def bench(
    recipe: Recipe,
    out: Path | str,
    *,
    progress: Callable[[Progress], None] | None = None,
    opened: Engine | None = None,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Answer every sample of the benchmarks with every method, score the answers, and write a run folder.

    The same call with the same folder resumes: answered samples are kept, failed ones are asked again. Killed at any
    moment, a run loses the batch in flight at most. A run may also grow: further methods or benchmarks are added to
    those it has, and a larger limit adds samples.

    A method that the model refuses ends its row, not the run: `run.refused` says why, by method.

    Args:
        recipe: what is asked, of which model, how, and how it is scored.
        out: the run folder; made if need be.
        progress: called after every batch of every method.
        opened: an engine to use instead of opening one; it is not closed.
        cluster: where engines answer beside each other; None: one engine, in this process. The batches, and so the
            answers, are the same.

    Returns:
        What metrics.json holds: `{"results": ..., "run": ...}`, see `evaluate.results.results`; `run` is
        run.json and `n_answers`, `n_failed`.

    Raises:
        ValueError: a name, setting or folder that cannot be used; a folder that holds a run of other settings.
        RuntimeError: no method could answer anything.
    """
    scoring = recipe.scoring()
    recipe = replace(recipe, engine=_engine_name(recipe.engine, opened))
    if cluster is not None:
        recipe = replace(recipe, engine_options=cluster.options(recipe.engine, recipe.engine_options))
    stored = RunFolder(out).run()
    task = task_of(recipe, str(out), stored)
    rehearse(task.samples, scoring)
    with RunFolder(out) as folder:
        if folder.run() != stored:
            raise ValueError(f"{str(out)!r} was changed while this command started: give it again")
        known = _answered(task, folder.records({sample.sample_id for sample in task.samples}))
        if stored is None or _missing(task, known):
            keeping = _keeping(task, folder, known, progress)
            with _engines(task, opened, cluster) as engines:
                stored = _generate(task, stored, keeping, engines)
        return finish(folder, scoring, recipe.root)


def run(
    recipe: Path | str, out: Path | str, progress: Callable[[Progress], None] | None = None, **changes: Any
) -> dict[str, Any]:
    """Run a recipe into a run folder, with some fields changed; `opened` and `cluster` as in `bench`, which says what
    comes back."""
    given = {name: changes.pop(name, None) for name in ("opened", "cluster")}
    return bench(replace(read(recipe), **changes), out, progress=progress, **given)


def _engines(
    task: Task, opened: Engine | None, cluster: Cluster | None
) -> AbstractContextManager[Alone] | AbstractContextManager[Crew]:
    """Of the whole run, which may have methods that this command does not name and still has to ask."""
    return alone(task.recipe, opened) if cluster is None else crew(task.recipe, cluster, _images(task))


def _engine_name(engine: str, opened: Engine | None) -> str:
    if opened is not None:
        return opened.name
    if engine not in ENGINES:
        raise ValueError(nearest(engine, ENGINES, "engine"))
    return engine


def _missing(task: Task, known: Mapping[str, set[str]]) -> bool:
    return any(sample.sample_id not in known[plan.name] for plan in task.asked for sample in task.samples)


def _answered(task: Task, records: Sequence[Record]) -> dict[str, set[str]]:
    known: dict[str, set[str]] = {plan.name: set() for plan in task.plans}
    for record in records:
        if record["status"] == "ok":
            known[record["method"]].add(record["sample_id"])
    return known


def _generate(task: Task, stored: RunFile | None, keeping: Keeping, engines: Alone | Crew) -> RunFile:
    """Ask the engines what has no answer yet, and keep account of it in run.json."""
    folder = keeping.folder
    if stored is not None:
        refuse_others(str(folder.path), engine_facts(stored["engine"]), engine_facts(engines.description))
    run = _run(task, folder, stored, engines.description)
    before, begin = run["sessions"], time.perf_counter()
    session: dict[str, Any] = {"started": _now()}

    def account() -> None:
        run["sessions"] = [*before, cast(Session, {**session, **engines.session()})]
        folder.write_run(run)

    account()
    try:
        engines.answer(keeping, task.groups())
    finally:
        session |= {"seconds": time.perf_counter() - begin, "notes": keeping.notes}
        _note_refusals(run, task, keeping)
        account()
    keeping.refuse_silence()
    return run


def _images(task: Task) -> list[str]:
    return [sample.image for sample in task.samples]


def _keeping(
    task: Task, folder: RunFolder, known: dict[str, set[str]], progress: Callable[[Progress], None] | None
) -> Keeping:
    done = sum(len(known[plan.name]) for plan in task.asked)
    return Keeping(folder, task.asked, progress, known, done, len(task.samples) * len(task.asked))


def _note_refusals(run: RunFile, task: Task, keeping: Keeping) -> None:
    """Which rows have ended, and why; a row that was asked again and answered has not."""
    asked = {plan.name for plan in task.asked}
    kept = {name: said for name, said in run.get("refused", {}).items() if name not in asked}
    run["refused"] = {**kept, **keeping.refused}
    if not run["refused"]:
        del run["refused"]


def _run(task: Task, folder: RunFolder, stored: RunFile | None, description: Mapping[str, Any]) -> RunFile:
    """run.json as it stands when answering begins: new, or the stored one with what has been added."""
    data = task.recipe.data
    held: dict[str, Any] = {
        "format": FORMAT,
        "chair_flavour": task.recipe.flavour,  # whose ground truth is stored with the answers
        "engine": dict(description),
        **provenance(),
        "sessions": [],
    }
    now: dict[str, Any] = {
        "hash": digest(task.settings),
        "settings": task.settings,
        "methods": [plan.name for plan in task.plans],
        "data": data or LAB_DATA,
        "parts": task.parts,
        "n_samples": len(task.samples),
        **({"data_beside": os.path.relpath(data, folder.path)} if data is not None else {}),
        **({"stages": task.stages} if task.stages else {}),
    }
    return checked({**held, **(stored or {}), **now})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
