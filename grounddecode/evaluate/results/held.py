"""What a run folder holds, read as it is scored: by which rules, with which data, against which ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grounddecode.evaluate.benchmarks.base import EVALUATION, Wanted
from grounddecode.evaluate.benchmarks.rules import Scoring, ground_truth_of, scoring_of
from grounddecode.evaluate.benchmarks.table import load
from grounddecode.evaluate.folder.lines import Record
from grounddecode.evaluate.folder.places import data_folder
from grounddecode.evaluate.folder.run_file import RunFile
from grounddecode.evaluate.sample import LAB_DATA


def rules_of(run_folder: Path | str, run: RunFile, moved: Path | None = None) -> Scoring:
    """Those that a run was scored by last, with its data where they are today; `moved`: in this folder."""
    root = data_folder(run_folder, run, moved)
    return replace(scoring_of(run), data=LAB_DATA if root is None else str(root))


def held(records: Iterable[Record], run: RunFile, flavour: str, root: Path | None) -> list[Record]:
    """The answers of methods that the model has not refused, in the order of the run's methods and samples.

    Args:
        records: those of the run, or some of them.
        flavour: of CHAIR; one that has another ground truth than the stored one reads the annotations anew.
        root: the folder of the run's data; None: the lab's drawn scenes.

    Raises:
        ValueError: the annotations are needed, and are not there.
    """
    methods, parts = ({name: at for at, name in enumerate(names)} for names in (run["methods"], run["parts"]))
    ended = run.get("refused", {})
    found = [record for record in records if record["method"] not in ended]
    found.sort(key=lambda record: (methods[record["method"]], _rank(record["sample_id"], parts)))
    if not any(record["benchmark"] == "chair" for record in found):
        return found
    objects = _truths(run, flavour, root)
    return [{**r, "truth": objects[r["sample_id"]]} if r["sample_id"] in objects else r for r in found]


def _truths(run: RunFile, flavour: str, root: Path | None) -> dict[str, Any]:
    """The objects of each caption's picture, where the flavour has another ground truth than the stored one."""
    from grounddecode.lab import drawn_split

    settings = run["settings"]
    if ground_truth_of(flavour) == ground_truth_of(run["chair_flavour"]):
        return {}
    split = settings.get("split", EVALUATION)
    split = split if root is not None else drawn_split(settings["model"], split)
    wanted = Wanted(root=root, limit=settings["limit"], flavour=flavour, split=split, ids=settings.get("ids"))
    return {sample.sample_id: sample.facts["truth"] for sample in load(["chair"], wanted)}


def _rank(sample_id: str, parts: Mapping[str, int]) -> tuple[int, int, str]:
    """Order of sample ids: parts as in the run, then `pope-random/9` before `pope-random/10`."""
    part, _, rest = sample_id.rpartition("/")
    return parts[part], int(rest) if rest.isdecimal() and len(rest) < 20 else 0, rest
