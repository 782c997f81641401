"""What a benchmark is: what it needs on disk, its samples, what is measured on the answers and what of it is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np

from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.data.items import Item
from grounddecode.evaluate.intervals import Floats
from grounddecode.evaluate.sample import Sample

#: Questions are drawn with this seed whatever the seed of a run is, so that all runs are asked the same.
QUESTION_SEED = 0
EVALUATION = "evaluation"
PERCENT = 100.0
#: What is wrong in an answer to a question, where it is.
WRONG = "wrong"
Record = Mapping[str, Any]
Row = dict[str, float]


@dataclass(frozen=True)
class Wanted:
    """What of a benchmark is wanted.

    Attributes:
        root: folder of the data; None: the lab's drawn scenes.
        limit: at most so many samples of each split; None: all. A smaller number is a prefix of a larger one.
        max_new_tokens: of captions; None: 60 on the lab, 512 elsewhere. Answers to yes/no questions have their own.
        flavour: of CHAIR's ground truth.
        split: of the lab's scenes; settings are tuned on "calibration", results are those of "evaluation".
        ids: a published list of CHAIR's pictures by name, see `chair.id_lists`; None: the folder's own choice.
    """

    root: Path | None = None
    limit: int | None = None
    max_new_tokens: int | None = None
    flavour: str = "pattern"
    split: str = EVALUATION
    ids: str | None = None


@dataclass(frozen=True)
class Column:
    """A number of a table: its key in the results, its heading, and what it is multiplied with when shown."""

    key: str
    heading: str
    scale: float = 1.0
    digits: int = 1


class Labelled(TypedDict):
    """What a stored answer to a yes/no question has beside it."""

    label: str
    category: NotRequired[str]
    question_id: NotRequired[int | str]


class Measure(Protocol):
    """The numbers of one part of a benchmark.

    Attributes:
        captions: whether the answers are captions, which have greedy's cut to their length as control.
        directions: of each ratio, whether more is better; None: neither.
        columns: what a table shows.
        headlines: the numbers that have to be better than the control's for a plain verdict of better.
        facts: the fields that a stored answer has beside it, a class of fields.
    """

    captions: bool
    directions: Mapping[str, bool | None]
    columns: tuple[Column, ...]
    headlines: tuple[str, ...]
    facts: Any

    def score(self, records: Sequence[Record], scoring: Scoring) -> tuple[dict[str, Any], list[Row]]:
        """The scorer's own numbers, and one row of counts a record."""
        ...

    def ratios(self, sums: Mapping[str, Floats]) -> dict[str, Floats]:
        """Sums of the rows to ratios, under the names of the scorer's numbers; of questions `accuracy` among them."""
        ...


@runtime_checkable
class Describes(Protocol):
    """What a measure of descriptions has besides: the names of what it counts."""

    def invented(self, records: Sequence[Record], scoring: Scoring) -> list[list[str]]:
        """The objects that each description invents, as the scorer counts them; each once, in order of the text."""
        ...


def errors(measure: Measure, records: Sequence[Record], scoring: Scoring) -> list[list[str] | None]:
    """What is wrong in each answer of one method, by the measure: objects that it invents, `WRONG`, or nothing.

    None where it counts neither as right nor as wrong, as what a benchmark leaves out, or where nobody can know.
    """
    if isinstance(measure, Describes):
        return [*measure.invented(records, scoring)]
    if not records or "accuracy" not in measure.directions:
        return [None] * len(records)
    rows = measure.score(records, scoring)[1]
    alone = measure.ratios({name: np.array([float(row[name]) for row in rows]) for name in rows[0]})["accuracy"]
    return [None if np.isnan(one) else [] if one else [WRONG] for one in alone]


def no_total(splits: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of a benchmark whose splits are shown for themselves."""
    return {}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, in one file, which the table of `grounddecode.evaluate.benchmarks.table` lists.

    Attributes:
        name: as `--benchmarks` takes it, and as sample ids begin.
        title: of its tables.
        parts: what is measured, by split and in this order; one that has no splits has "" alone.
        items: what it needs on disk.
        samples: its samples from the folder of a user.
        samples_drawn: those on the lab's scenes; None: the lab has none.
        total: numbers that rest on several splits, from the results by split.
    """

    name: str
    title: str
    parts: Mapping[str, Measure]
    items: tuple[Item, ...]
    samples: Callable[[Wanted], Iterator[Sample]]
    samples_drawn: Callable[[Wanted], Iterator[Sample]] | None = None
    total: Callable[[Mapping[str, Mapping[str, Any]]], dict[str, Any]] = no_total
