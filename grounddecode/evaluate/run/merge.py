"""One run folder out of the shards of one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grounddecode.evaluate.benchmarks.rules import Scoring, stored_rules
from grounddecode.evaluate.folder.places import data_folder
from grounddecode.evaluate.folder.run_file import RunFile, checked
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.results.held import rules_of
from grounddecode.evaluate.run.batches import parse_shard
from grounddecode.evaluate.run.recipe import digest, engine_facts, lasting, refuse_others
from grounddecode.evaluate.run.rescore import metrics_of

# What shards of one run need not share.
_OWN = ("shard", "questions")


def merge(runs: Sequence[Path | str], out: Path | str) -> dict[str, Any]:
    """Put the answers of all shards of one run into a new folder, score them, and return the metrics.

    Samples that a shard failed to answer stay failed: resume that shard and merge again into another folder.

    Args:
        runs: the folders of shards 1/n to n/n, in any order.
        out: a folder without a run.

    Raises:
        ValueError: no run folder, an unfinished one, shards of different runs, a shard that is missing or given twice,
            or a taken `out`.
    """
    if not runs:
        raise ValueError("there is nothing to merge: give the folders of all shards")
    folders = [RunFolder(run) for run in runs]
    stored = [folder.stored_run() for folder in folders]
    for folder, run in zip(folders, stored, strict=True):
        _refuse_unfinished(folder, run)
        refuse_others(str(folder.path), _common(run), _common(stored[0]))
    order = _order([str(folder.path) for folder in folders], stored)
    root, scoring = data_folder(runs[0], stored[0]), rules_of(runs[0], stored[0])
    with RunFolder(out) as merged:
        if merged.run() is not None or merged.records():
            raise ValueError(f"{str(out)!r} holds a run already: give another --out")
        run = _merged([stored[at] for at in order], scoring, root, Path(out))
        records = [record for at in order for record in folders[at].records()]
        metrics = metrics_of(run, records, scoring, root)  # first: what cannot be scored leaves no folder half made
        merged.write_run(run)
        merged.append(records)
        merged.write_metrics(metrics)
        return metrics


def _refuse_unfinished(folder: RunFolder, run: RunFile) -> None:
    ended = run.get("refused", {})
    there = sum(record["method"] not in ended for record in folder.records())
    wanted = run["n_samples"] * sum(method not in ended for method in run["methods"])
    if there < wanted:
        raise ValueError(f"{str(folder.path)!r} holds {there} of {wanted} answers: run its command again to finish it")


def _common(run: RunFile) -> dict[str, Any]:
    shared = {key: value for key, value in run["settings"].items() if key not in _OWN}
    shared["engine_options"] = lasting(run["settings"]["engine_options"])
    return {
        **shared,
        "refused": sorted(run.get("refused", {})),
        **engine_facts(run["engine"]),
        "chair_flavour": run["chair_flavour"],
    }


def _order(paths: Sequence[str], stored: Sequence[RunFile]) -> list[int]:
    """Places of the runs by shard number."""
    places: dict[int, int] = {}
    count = 0
    for at, run in enumerate(stored):
        shard = run["settings"]["shard"]
        if shard is None:
            raise ValueError(f"{paths[at]!r} is no shard but a whole run: there is nothing to merge it with")
        index, total = parse_shard(shard)
        if count not in (0, total):
            raise ValueError(f"{paths[at]!r} is shard {shard}, the one before is of {count}: give shards of one run")
        if index in places:
            raise ValueError(f"{paths[at]!r} and {paths[places[index]]!r} are both shard {shard}: give each shard once")
        places[index], count = at, total
    missing = [f"{index}/{count}" for index in range(1, count + 1) if index not in places]
    if missing:
        raise ValueError(f"shard {', '.join(missing)} is missing: give the folders of all {count} shards")
    return [places[index] for index in range(1, count + 1)]


def _merged(stored: Sequence[RunFile], scoring: Scoring, data: Path | None, out: Path) -> RunFile:
    first = stored[0]
    questions = [run["settings"]["questions"] for run in stored]
    settings: dict[str, Any] = {**first["settings"], "shard": None, "questions": questions}
    made: dict[str, Any] = {
        **{key: value for key, value in first.items() if key != "stages"},
        "scoring": stored_rules(scoring),
        "hash": digest(settings),
        "settings": settings,
        "parts": list(dict.fromkeys(part for run in stored for part in run["parts"])),
        "n_samples": sum(run["n_samples"] for run in stored),
        "sessions": [session for run in stored for session in run["sessions"]],
        **({} if data is None else {"data_beside": os.path.relpath(data, out)}),
    }
    return checked(made)
