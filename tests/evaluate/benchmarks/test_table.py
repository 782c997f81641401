"""A benchmark is one object in the table: everything that is known of it follows from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pytest

from grounddecode.evaluate.benchmarks import table
from grounddecode.evaluate.benchmarks.base import Benchmark, Column, Record, Row, Wanted
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import COCO_IMAGES
from grounddecode.evaluate.folder.store import RunFolder
from grounddecode.evaluate.results.compare import compare
from grounddecode.evaluate.sample import Sample
from tests.evaluate.fake import run


class Facts(TypedDict):
    most: int


class Brevity:
    """Whether a description has at most so many words."""

    captions = False
    directions: Mapping[str, bool | None] = {"brief": True}
    columns: tuple[Column, ...] = (Column("brief", "brief", 100.0),)
    headlines: tuple[str, ...] = ("brief",)
    facts = Facts

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        rows = [{"n": 1.0, "brief": float(len(r["response"].split()) <= r["most"])} for r in records]
        return {"brief": sum(row["brief"] for row in rows) / len(rows)}, rows

    def ratios(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        return {"brief": sums["brief"] / sums["n"]}


def samples(wanted: Wanted) -> Iterator[Sample]:
    assert wanted.root is not None
    for at, path in enumerate(sorted((wanted.root / "images").iterdir())[: wanted.limit]):
        yield Sample(f"toy-plain/{at}", "toy", "plain", at, str(path), "Describe this.", 20, {"most": 11})


def total(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"doubled": 2 * splits["plain"]["brief"]}


TOY = Benchmark("toy", "Toy", {"plain": Brevity()}, (COCO_IMAGES,), samples, total=total)


@pytest.fixture
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.BENCHMARKS, "toy", TOY)
    monkeypatch.setitem(table.PARTS, "toy-plain", TOY.parts["plain"])


@pytest.mark.usefixtures("_toy")
def test_a_further_benchmark_is_one_object(data: Path, tmp_path: Path) -> None:
    found = run(data, tmp_path / "run", benchmarks=["toy"])["results"]
    # Greedy's description has 11 words, sampling's a 12th.
    assert found["greedy"]["toy"]["plain"]["brief"] == 1.0
    assert found["sample"]["toy"]["plain"]["brief"] == 0.0
    assert found["sample"]["toy"]["plain"]["vs_greedy"]["brief"]["difference"] == -1.0
    assert found["greedy"]["toy"]["doubled"] == 2.0
    assert "Toy plain, 6 samples" in compare([tmp_path / "run"]).text()


@pytest.mark.usefixtures("_toy")
def test_its_stored_answers_are_read_by_its_facts(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", benchmarks=["toy"])
    lines = (tmp_path / "run" / "samples.jsonl").read_text()
    (tmp_path / "run" / "samples.jsonl").write_text(lines.replace('"most": 11', '"most": "many"'))
    with pytest.raises(ValueError, match="the field most is 'many', give a whole number"):
        RunFolder(tmp_path / "run").records()


def test_the_lab_lacks_what_a_benchmark_does_not_draw() -> None:
    with pytest.raises(ValueError, match="the lab has no mme"):
        table.load(["mme"], Wanted())


def test_every_benchmark_can_be_got_and_shown() -> None:
    assert set(table.DATA_SETS) == {"coco", *table.names()}
    for benchmark in table.BENCHMARKS.values():
        for measure in benchmark.parts.values():
            shown = {column.key for column in measure.columns}
            assert set(measure.headlines) <= shown <= set(measure.directions)
