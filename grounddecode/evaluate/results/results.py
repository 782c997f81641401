"""From the records of a run to its results: scores, intervals, paired differences, controls, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grounddecode.evaluate.benchmarks.base import Measure, Record, Row
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import BENCHMARKS, measure_of, part_of
from grounddecode.evaluate.folder.lines import Question, question
from grounddecode.evaluate.intervals import (
    FEW,
    LEAST,
    Counts,
    count,
    differences,
    intervals,
    number,
    verdict,
)
from grounddecode.evaluate.language.unfinished import drop_unfinished
from grounddecode.evaluate.results.controls import length_matched
from grounddecode.evaluate.results.costs import answered, cost
from grounddecode.evaluate.sample import LAB_DATA, Sample
from grounddecode.registry import GREEDY

SAMPLED = "sample+cut"
#: Plans that the others are compared with, and under which key.
BASELINES = {GREEDY: "vs_greedy", SAMPLED: "vs_sample_cut"}
Part = tuple[str, str]
#: An answer that makes every scorer open what it reads answers with: "seated" has to be tagged.
_REHEARSED = "Yes, he is seated."


@dataclass(frozen=True)
class Scored:
    """Answered records of one method and one part of a benchmark, each with its row of counts, and the numbers."""

    records: list[Record]
    rows: list[Row]
    numbers: dict[str, Any]
    n_failed: int = 0

    def counts(self) -> Counts:
        """Sums by picture."""
        return count([record["image_id"] for record in self.records], self.rows)

    def only(self, asked: Sequence[Question]) -> Scored:
        """The answers to these, in this order; the numbers are left out."""
        place = {question(record): at for at, record in enumerate(self.records)}
        at = [place[one] for one in asked]
        return Scored([self.records[i] for i in at], [self.rows[i] for i in at], {})


@dataclass(frozen=True)
class Entry:
    """One method of one run, and its records by part of a benchmark; `label`: what it is called beside the others."""

    label: str
    method: str
    parts: Mapping[Part, list[Record]]
    run: int = 0
    source: str = ""  #: what answered: that of two entries differs where their answers cannot be compared
    data: str = LAB_DATA  #: where the data of its run are


def results(records: Iterable[Record], scoring: Scoring) -> dict[str, dict[str, Any]]:
    """`{method: {benchmark: numbers, "cost": ...}}`; a benchmark with splits has `{split: numbers}`.

    The numbers are those of `measured`; `cost` is that of all answers, and under `parts` that of each part.
    """
    grouped = group(as_scored(records, scoring))
    entries = [Entry(method, method, parts, data=scoring.data) for method, parts in grouped.items()]
    greedy = next((entry for entry in entries if entry.method == GREEDY), None)
    blocks = measured(entries, scoring)
    shown: dict[str, dict[str, Any]] = {}
    for entry in entries:
        ours = shown[entry.label] = placed(blocks[entry.label])
        whole = cost(_flat(entry.parts), _flat(greedy.parts) if greedy else [], scoring.resamples)
        ours["cost"] = whole | ours["cost"]
    return shown


def measured(entries: Sequence[Entry], scoring: Scoring) -> dict[str, dict[Part, dict[str, Any]]]:
    """The numbers of every entry and part, by label.

    A method is compared with greedy of its own run, else with greedy of the first run of the same model, engine and
    options that was asked some of its questions. Beside the scorer's numbers stand `n_failed` (samples without an
    answer: no number counts them), `ci` (95 % intervals), `vs_greedy` and `vs_sample_cut` (differences on the samples
    that both answered, see `folder.lines.question`, with interval and verdict, where those methods are there;
    `n_vs_greedy`: on how many), and for captions `control` (the greedy captions cut to as many words in all as the
    method's), `vs_control` (the method's differences from it) and `control_vs_greedy` (its from greedy). Intervals are
    None where pictures cannot give one, and `warnings` say so where there are few. `cost` is that of the part.
    """
    rules = {entry.data: replace(scoring, data=entry.data) for entry in entries}
    scored = {
        entry.label: {part: score(measure_of(*part), found, rules[entry.data]) for part, found in entry.parts.items()}
        for entry in entries
    }
    return {
        entry.label: {part: _measured(entry, part, entries, scored, rules[entry.data]) for part in entry.parts}
        for entry in entries
    }


def _measured(
    entry: Entry,
    part: Part,
    entries: Sequence[Entry],
    scored: Mapping[str, Mapping[Part, Scored]],
    scoring: Scoring,
) -> dict[str, Any]:
    bases = {name: base for name in baselines(entry.method) if (base := _base(name, entry, entries, part)) is not None}
    others = {name: scored[base.label][part] for name, base in bases.items()}
    numbers = block(measure_of(*part), scored[entry.label][part], others, scoring)
    greedy = entry if entry.method == GREEDY else bases.get(GREEDY)
    paid = cost(entry.parts[part], greedy.parts[part] if greedy else [], scoring.resamples)
    return {**numbers, "cost": paid}


def _base(name: str, entry: Entry, entries: Sequence[Entry], part: Part) -> Entry | None:
    """The entry that `entry` is compared with under a baseline's name."""
    named = [one for one in entries if one.method == name and part in one.parts]
    own = next((one for one in named if one.run == entry.run), None)
    if own is not None or not named:
        return own
    asked = set(map(question, entry.parts[part]))
    same = (one for one in named if one.source == entry.source)
    return next((one for one in same if not asked.isdisjoint(map(question, one.parts[part]))), None)


def placed(blocks: Mapping[Part, dict[str, Any]]) -> dict[str, Any]:
    """Numbers by benchmark, and by split where there are several, with what rests on all of them; costs apart."""
    shown: dict[str, Any] = {}
    for (benchmark, split), block in blocks.items():
        numbers = {key: value for key, value in block.items() if key != "cost"}
        if split:
            shown.setdefault(benchmark, {})[split] = numbers
        else:
            shown[benchmark] = numbers
    for benchmark, splits in shown.items():
        splits |= BENCHMARKS[benchmark].total(splits)
    return shown | {"cost": {"parts": {part_of(*part): block["cost"] for part, block in blocks.items()}}}


def by_part(shown: Mapping[str, Any]) -> dict[Part, dict[str, Any]]:
    """What `placed` has put away, by part, each with its cost."""
    blocks: dict[Part, dict[str, Any]] = {}
    for benchmark, found in shown.items():
        parts = BENCHMARKS[benchmark].parts if benchmark in BENCHMARKS else {}
        splits = {"": found} if "" in parts else found
        blocks |= {(benchmark, split): splits[split] for split in splits if split in parts}
    return {part: {**block, "cost": shown["cost"]["parts"][part_of(*part)]} for part, block in blocks.items()}


def as_scored(records: Iterable[Record], scoring: Scoring) -> Iterable[Record]:
    """The records with the answers that are scored."""
    return drop_unfinished(records) if scoring.drop_unfinished else records


def rehearse(samples: Sequence[Sample], scoring: Scoring) -> None:
    """Score made-up answers to samples, so that what cannot be scored is refused before anything is answered.

    Raises:
        ValueError: labels or data that the rules do not take.
        RuntimeError: a tagger or a similarity whose data are not there.
    """
    made_up = {"method": GREEDY, "status": "ok", "response": _REHEARSED}
    for parts in group(sample.to_dict() | made_up for sample in samples).values():
        for part, found in parts.items():
            score(measure_of(*part), found, scoring)


def baselines(method: str) -> list[str]:
    """What a method is compared with; greedy stands for itself."""
    return [name for name in BASELINES if name != method and method != GREEDY]


def group(records: Iterable[Record]) -> dict[str, dict[Part, list[Record]]]:
    """Records by method, then by (benchmark, split), each in the order met."""
    grouped: dict[str, dict[Part, list[Record]]] = {}
    for record in records:
        parts = grouped.setdefault(record["method"], {})
        parts.setdefault((record["benchmark"], record.get("split", "")), []).append(record)
    return grouped


def score(measure: Measure, records: Sequence[Record], scoring: Scoring) -> Scored:
    """The answered ones among the records, scored."""
    found = answered(records)
    numbers, rows = measure.score(found, scoring)
    return Scored(found, rows, numbers, len(records) - len(found))


def control(measure: Measure, ours: Scored, greedy: Scored, scoring: Scoring) -> Scored:
    """Greedy's captions of the samples that both answered, cut to as many words in all as ours."""
    mine, theirs = paired(ours, greedy)
    cut = length_matched(*([str(r["response"]) for r in side.records] for side in (theirs, mine)))
    return score(measure, [{**r, "response": text} for r, text in zip(theirs.records, cut, strict=True)], scoring)


def paired(ours: Scored, theirs: Scored) -> tuple[Scored, Scored]:
    """Both, less the samples that only one side answered, in one order."""
    known = set(map(question, theirs.records))
    shared = [asked for asked in map(question, ours.records) if asked in known]
    return ours.only(shared), theirs.only(shared)


def compared(measure: Measure, mine: Scored, yours: Scored, resamples: int) -> dict[str, dict[str, Any]]:
    """`{number: {"difference", "ci", "verdict"}}` of answers to the same questions, one at least, see `paired`."""
    counts = mine.counts()
    found = differences(counts, yours.counts(), measure.ratios, resamples)
    decidable = len(counts.clusters) >= LEAST
    return {
        name: {
            "difference": number(value),
            "ci": interval,
            "verdict": verdict(interval, measure.directions[name]) if decidable else "",
        }
        for name, (value, interval) in found.items()
    }


def block(measure: Measure, ours: Scored, others: Mapping[str, Scored], scoring: Scoring) -> dict[str, Any]:
    """The numbers of one method on one part, compared with `others`: keys of `BASELINES` that it is not itself."""
    numbers = {**ours.numbers, "n": len(ours.records), "n_failed": ours.n_failed}
    if not ours.records:
        return numbers
    counts = ours.counts()
    numbers["n_pictures"] = len(counts.clusters)
    numbers["warnings"] = [*numbers.get("warnings", ()), *few(len(counts.clusters))]
    numbers["ci"] = intervals(counts, measure.ratios, scoring.resamples)
    for name, theirs in others.items():
        mine, yours = paired(ours, theirs)
        if mine.records:
            numbers[BASELINES[name]] = compared(measure, mine, yours, scoring.resamples)
            numbers[f"n_{BASELINES[name]}"] = len(mine.records)
    if measure.captions and BASELINES[GREEDY] in numbers:
        matched = control(measure, ours, others[GREEDY], scoring)
        numbers["control"] = matched.numbers
        numbers["vs_control"] = compared(measure, *paired(ours, matched), scoring.resamples)
        numbers["control_vs_greedy"] = compared(measure, *paired(matched, others[GREEDY]), scoring.resamples)
    return numbers


def few(pictures: int) -> list[str]:
    """What a number of pictures is too small for."""
    if pictures >= FEW:
        return []
    told = f"the intervals rest on {pictures} pictures and are too narrow"
    if pictures == 1:
        told = "all samples are of one picture, which gives no interval"
    return [told + (": no difference is told apart from chance." if pictures < LEAST else ".")]


def _flat(parts: Mapping[Any, Sequence[Record]]) -> list[Record]:
    return [record for found in parts.values() for record in found]
