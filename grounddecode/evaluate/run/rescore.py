"""Scoring what a run folder holds: at the end of a run, and ever after without an engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.benchmarks.rules import Scoring, stored_rules
from grounddecode.evaluate.folder.places import data_folder
from grounddecode.evaluate.folder.run_file import RunFile
from grounddecode.evaluate.folder.store import Record, RunFolder
from grounddecode.evaluate.results.held import held, rules_of
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
    scoring = replace(rules_of(run, stored), **{key: value for key, value in given.items() if value is not None})
    with RunFolder(run) as folder:
        return finish(folder, scoring, data_folder(run, stored))


def finish(folder: RunFolder, scoring: Scoring, root: Path | None) -> dict[str, Any]:
    """Score what the folder holds, and write down the metrics and by which rules; `root`: of the run's data."""
    metrics = metrics_of(folder.stored_run(), folder.records(), scoring, root)
    run = {key: value for key, value in metrics["run"].items() if key not in ("n_answers", "n_failed")}
    folder.write_run(run)  # only now: rules by which the answers cannot be scored are not remembered
    folder.write_metrics(metrics)
    return metrics


def metrics_of(run: RunFile, records: Iterable[Record], scoring: Scoring, root: Path | None) -> dict[str, Any]:
    """What metrics.json holds, in the order of the run's methods and samples; rows that have ended are left out."""
    answers = held(records, run, scoring.chair_flavour, root)
    failed = sum(record["status"] != "ok" for record in answers)
    return {
        "results": results(answers, scoring),
        "run": {**run, "scoring": stored_rules(scoring), "n_answers": len(answers) - failed, "n_failed": failed},
    }
