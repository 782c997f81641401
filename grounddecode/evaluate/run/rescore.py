"""Scoring what a run folder holds: at the end of a run, and ever after without an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.benchmarks.base import EVALUATION, Wanted
from grounddecode.evaluate.benchmarks.rules import Scoring, ground_truth_of, scoring_of
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.folder.places import data_folder
from grounddecode.evaluate.folder.run_file import RunFile
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.results.results import results


def rescore(
    run: Path | str,
    *,
    pope_rule: str | None = None,
    chair_flavour: str | None = None,
    amber_similarity: str | None = None,
    resamples: int | None = None,
    drop_unfinished: bool | None = None,
) -> dict[str, Any]:
    """Metrics of a run folder from its stored answers, without an engine; rewrites metrics.json.

    Args:
        pope_rule, chair_flavour, amber_similarity, resamples, drop_unfinished: instead of those the run was scored with
            last. A flavour with a ground truth of its own reads the annotations anew, and AMBER its lists of words.

    Raises:
        ValueError: no run folder, an unknown rule or flavour, or data that are not where they were.
    """
    stored = RunFolder(run).stored_run()
    given: dict[str, Any] = {
        "pope_rule": pope_rule,
        "chair_flavour": chair_flavour,
        "amber_similarity": amber_similarity,
        "resamples": resamples,
        "drop_unfinished": drop_unfinished,
    }
    scoring = replace(scoring_of(stored), **{key: value for key, value in given.items() if value is not None})
    root = data_folder(run, stored)
    scoring = scoring if root is None else replace(scoring, data=str(root))
    with RunFolder(run) as folder:
        return finish(folder, scoring, truths(stored, scoring.chair_flavour, root))


def truths(run: RunFile, flavour: str, root: Path | None) -> dict[str, Any]:
    """The objects of each caption's picture, where the flavour has another ground truth than the stored one."""
    from grounddecode.lab import drawn_split

    settings = run["settings"]
    if ground_truth_of(flavour) == ground_truth_of(run["chair_flavour"]) or "chair" not in settings["benchmarks"]:
        return {}
    split = settings.get("split", EVALUATION)
    split = split if root is not None else drawn_split(settings["model"], split)
    wanted = Wanted(root=root, limit=settings["limit"], flavour=flavour, split=split, ids=settings.get("ids"))
    return {sample.sample_id: sample.facts["truth"] for sample in load(["chair"], wanted)}


def finish(folder: RunFolder, scoring: Scoring, truths: Mapping[str, Any]) -> dict[str, Any]:
    """Score what the folder holds, in the order of the run's methods and samples; rows that have ended are left out.

    Args:
        truths: by sample, instead of those stored with the answers.
    """
    run: dict[str, Any] = {**folder.stored_run(), "scoring": asdict(scoring)}
    methods, parts = ({name: at for at, name in enumerate(run[key])} for key in ("methods", "parts"))
    ended = run.get("refused", {})
    held = [record for record in folder.records() if record["method"] not in ended]
    held.sort(key=lambda r: (methods[r["method"]], _rank(r["sample_id"], parts)))
    failed = sum(record["status"] != "ok" for record in held)
    metrics = {
        "results": results((r | _truth(r, truths) for r in held), scoring),
        "run": {**run, "n_answers": len(held) - failed, "n_failed": failed},
    }
    folder.write_run(run)  # only now: rules by which the answers cannot be scored are not remembered
    folder.write_metrics(metrics)
    return metrics


def _truth(record: Record, truths: Mapping[str, Any]) -> Record:
    return {"truth": truths[record["sample_id"]]} if record["sample_id"] in truths else {}


def _rank(sample_id: str, parts: Mapping[str, int]) -> tuple[int, int, str]:
    """Order of sample ids: parts as in the run, then `pope-random/9` before `pope-random/10`."""
    part, _, rest = sample_id.rpartition("/")
    return parts[part], int(rest) if rest.isdecimal() and len(rest) < 20 else 0, rest
