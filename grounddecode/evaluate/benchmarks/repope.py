"""RePOPE (arXiv:2504.15707): POPE with its labels looked at again. Fewer questions, none of them new.

With `--benchmarks pope,repope` each question is asked once, and the answer counts in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from grounddecode.evaluate import json_lines
from grounddecode.evaluate.benchmarks import sources
from grounddecode.evaluate.benchmarks.base import PERCENT, Benchmark, Column, Wanted
from grounddecode.evaluate.benchmarks.pope import Pope, asked
from grounddecode.evaluate.data.items import COCO_IMAGES, Item, released
from grounddecode.evaluate.intervals import Floats, divide
from grounddecode.evaluate.sample import Sample
from grounddecode.evaluate.scoring.pope_questions import STRATEGIES

_RELEASE = "https://raw.githubusercontent.com/YanNeu/RePOPE/bcf22e5690d587cce34e1728af3efdcfaf747d29/annotations/"


def _file(split: str, size: int, sha256: str) -> Item:
    return released("repope", split, f"coco_repope_{split}.json", "not stated", size, sha256, _RELEASE)


FILES = {
    "random": _file("random", 340_368, "f464fcaf60b24ce2f280cf33f122e000dbdd35c8e88f77c4141c9c2cba864611"),
    "popular": _file("popular", 333_773, "57832b055bae5fd6176278a4f104c98ddd84811f7d26dfcb93d481f6c9da09a5"),
    "adversarial": _file("adversarial", 328_764, "8c346dbb060bf422ff92e769fa68e5ab3e8a777cb28a26e973387441e05c9ccf"),
}


class Repope(Pope):
    """By its own program's rule. Fewer labels are yes than half, so the yes-rate stands beside theirs."""

    directions: Mapping[str, bool | None] = {**Pope.directions, "label_yes_ratio": None}
    columns: tuple[Column, ...] = (*Pope.columns, Column("label_yes_ratio", "labels yes", PERCENT))
    rule = "repope"

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        return {**super().ratios(sums), "label_yes_ratio": divide(sums["tp"] + sums["fn"], sums["n"])}


def samples(wanted: Wanted) -> Iterator[Sample]:
    """The released files, about POPE's pictures."""
    root = sources.root_of(wanted)
    folder = sources.place_of(COCO_IMAGES, root, "repope")
    for split, item in FILES.items():
        path = sources.place_of(item, root, "repope")
        yield from asked("repope", split, json_lines.read(path)[: wanted.limit], folder, path.name)


REPOPE = Benchmark(
    name="repope",
    title="RePOPE",
    parts=dict.fromkeys(STRATEGIES, Repope()),
    items=(*FILES.values(), COCO_IMAGES),
    samples=samples,
)
