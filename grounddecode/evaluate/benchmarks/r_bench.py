"""R-Bench's image-level questions (ICML 2024): relations, yes or no, by POPE's rule with its own denominators.

Its program scores five random subsets and averages; those numbers stand under `subsets` where the id files are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NotRequired

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import Benchmark, Labelled, Record, Row, Wanted
from grounddecode.evaluate.benchmarks.pope import Pope, asked
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import Item
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring import pope

SUBSETS = range(1, 6)
_NUMBERS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_WHERE = "download R-Bench by hand from https://github.com/mrwu-mac/R-Bench (Google Drive) and put it there"
QUESTIONS = Item(
    "r-bench questions",
    ("r-bench/image-level_filterd.json", "image-level_filterd.json"),
    "Apache-2.0",
    0,
    where=_WHERE,
)
IMAGES = Item(
    "r-bench images", ("r-bench/images", "r-bench/image", "images"), "Open Images, CC BY 2.0", 0, where=_WHERE
)


class _Labelled(Labelled):
    subsets: NotRequired[list[int]]


class RBench(Pope):
    """POPE's reader; a label is no where it holds that word."""

    facts: Any = _Labelled
    rule = "r-bench"

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        found, rows = super().score(records, scoring)
        parts = [[record for record in records if at in record.get("subsets", ())] for at in SUBSETS]
        if all(parts):
            each = [pope.score(part, [str(r["response"]) for r in part], self.rule, by_position=True) for part in parts]
            found["subsets"] = {name: fmean(one[name] for one in each) for name in _NUMBERS}
        return found, rows


def samples(wanted: Wanted) -> Iterator[Sample]:
    """The released questions, each with the subsets that it is of."""
    root = sources.root_of(wanted)
    path = sources.place_of(QUESTIONS, root, "r-bench")
    folder = sources.place_of(IMAGES, root, "r-bench")
    questions, subsets = json_lines.read(path), _subsets(path.parent)
    for sample, question in zip(
        asked("r-bench", "", questions[: wanted.limit], folder, path.name), questions, strict=False
    ):
        of = [at for at in SUBSETS if question["question_id"] in subsets.get(at, ())]
        yield sample.with_facts(subsets=of) if of else sample


def _subsets(folder: Path) -> dict[int, set[Any]]:
    """Ids by subset, of the files that are there."""
    places = {at: folder / f"image-level_ids_{at}.json" for at in SUBSETS}
    return {at: set(json_lines.read_json(path)) for at, path in places.items() if path.is_file()}


R_BENCH = Benchmark(name="r-bench", title="R-Bench", parts={"": RBench()}, items=(QUESTIONS, IMAGES), samples=samples)
