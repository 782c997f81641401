"""Runs that a page is made of: their records under the names they have in the tables, and where their pictures are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.folder.places import data_folder, picture_file
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.results.compare import label_of, names_of
from grounddecode.evaluate.results.held import held, rules_of
from grounddecode.evaluate.results.results import as_scored

if TYPE_CHECKING:
    from grounddecode.evaluate.folder.run_file import RunFile


@dataclass(frozen=True)
class Runs:
    """Some run folders: `about` is what the run files say, `records` of all, `plans` the methods by their names here.

    `models`: the model of each name.  `options`: how engine hf had it opened, where answers depend on it.
    `scoring`: the rules of the first run, by which all are shown.
    """

    folders: tuple[Path, ...]
    about: tuple[RunFile, ...]
    records: tuple[Mapping[str, Any], ...]
    plans: Mapping[str, str]
    models: Mapping[str, str]
    data: Path | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    scoring: Scoring = field(default_factory=Scoring)

    def find(self, image: str) -> Path | None:
        """The file of a stored picture; None where it is not there any more."""
        moved = None if self.data is None else self.data / image
        if moved is not None and moved.is_file():
            return moved
        found = (picture_file(image, *one) for one in zip(self.folders, self.about, strict=True))
        return next((path for path in found if path is not None), None)


def read_runs(folders: Sequence[Path], data: Path | None = None) -> Runs:
    """The runs, finished or not.

    Raises:
        ValueError: no folder, one that is no run, or data that are not there.
    """
    if not folders:
        raise ValueError("there is nothing to report: give at least one run folder")
    if data is not None and not data.is_dir():
        raise ValueError(
            f"the data folder {str(data)!r} does not exist: give the one that holds the run's pictures now"
        )
    stored = [RunFolder(folder) for folder in folders]
    about = [one.run() for one in stored]
    for folder, found in zip(folders, about, strict=True):
        if found is None:
            raise ValueError(f"{str(folder)!r} is no run folder, make one with `grounddecode bench --out {folder}`")
    known = [found for found in about if found is not None]
    scoring = rules_of(folders[0], known[0], data)
    answers = [
        list(as_scored(held(one.records(), found, scoring.chair_flavour, data_folder(one.path, found, data)), scoring))
        for one, found in zip(stored, known, strict=True)
    ]
    times = Counter(method for one in answers for method in dict.fromkeys(record["method"] for record in one))
    records, plans, models, options = [], {}, {}, {}
    for name, found, one in zip(names_of(folders), known, answers, strict=True):
        for record in one:
            label = label_of(record["method"], name, times[record["method"]])
            records.append({**record, "method": label, "plan": record["method"]})
            plans[label], models[label] = record["method"], str(found["settings"]["model"])
            options[label] = _options(found)
    return Runs(tuple(folders), tuple(known), tuple(records), plans, models, data, options, scoring)


def _options(about: RunFile) -> dict[str, Any]:
    """Those of engine hf that other answers come of. Code of the model's own runs when somebody says so, no file."""
    settings = about["settings"]
    given = settings["engine_options"] if settings["engine"] == "hf" else {}
    return {name: given[name] for name in ("dtype", "attn_implementation", "max_pixels") if name in given}
