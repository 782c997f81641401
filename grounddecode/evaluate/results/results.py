"""From the records of a run to its results: scores, intervals, paired differences, controls, cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grounddecode.evaluate.benchmarks.base import Measure, Record, Row
from grounddecode.evaluate.benchmarks.rules import Scoring
from grounddecode.evaluate.benchmarks.table import BENCHMARKS, measure_of
from grounddecode.evaluate.intervals import (
    FEW,
    LEAST,
    RESAMPLES,
    Counts,
    Floats,
    Interval,
    count,
    differences,
    divide,
    intervals,
    number,
    quotients,
    verdict,
)
from grounddecode.evaluate.language.unfinished import drop_unfinished
from grounddecode.evaluate.plan import GREEDY
from grounddecode.evaluate.results.controls import length_matched
from grounddecode.evaluate.sample import Sample

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

    def only(self, sample_ids: Sequence[str]) -> Scored:
        """These samples, in this order; the numbers are left out."""
        place = {record["sample_id"]: at for at, record in enumerate(self.records)}
        at = [place[sample_id] for sample_id in sample_ids]
        return Scored([self.records[i] for i in at], [self.rows[i] for i in at], {})


def results(records: Iterable[Record], scoring: Scoring) -> dict[str, dict[str, Any]]:
    """`{method: {benchmark: numbers, "cost": ...}}`; a benchmark with splits has `{split: numbers}`.

    Beside the scorer's numbers stand `n_failed` (samples without an answer: no number counts them), `ci` (95 %
    intervals), `vs_greedy` and `vs_sample_cut` (differences on the samples that both answered, with interval and
    verdict, where the run has those methods), and for captions `control` (the greedy captions cut to as many words in
    all as the method's), `vs_control` (the method's differences from it) and `control_vs_greedy` (its from greedy).
    Intervals are None where pictures cannot give one, and `warnings` say so where there are few.
    """
    grouped = group(as_scored(records, scoring))
    scored = {
        method: {part: score(measure_of(*part), found, scoring) for part, found in parts.items()}
        for method, parts in grouped.items()
    }
    shown: dict[str, dict[str, Any]] = {}
    for method, parts in scored.items():
        shown[method] = {}
        for part, ours in parts.items():
            names = [name for name in baselines(method) if part in scored.get(name, {})]
            others = {name: scored[name][part] for name in names}
            _place(shown[method], part, block(measure_of(*part), ours, others, scoring))
        _place_totals(shown[method])
        shown[method]["cost"] = cost(_flat(grouped[method]), _flat(grouped.get(GREEDY, {})), scoring.resamples)
    return shown


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


def answered(records: Iterable[Record]) -> list[Record]:
    """The records that hold an answer."""
    return [record for record in records if record["status"] == "ok"]


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
    known = {record["sample_id"] for record in theirs.records}
    shared = [record["sample_id"] for record in ours.records if record["sample_id"] in known]
    return ours.only(shared), theirs.only(shared)


def compared(measure: Measure, ours: Scored, theirs: Scored, resamples: int) -> dict[str, dict[str, Any]]:
    """`{number: {"difference", "ci", "verdict"}}` on the samples that both answered; empty where there are none."""
    mine, yours = paired(ours, theirs)
    if not mine.records:
        return {}
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
        differing = compared(measure, ours, theirs, scoring.resamples)
        if differing:
            numbers[BASELINES[name]] = differing
    if measure.captions and BASELINES[GREEDY] in numbers:
        matched = control(measure, ours, others[GREEDY], scoring)
        numbers["control"] = matched.numbers
        numbers["vs_control"] = compared(measure, ours, matched, scoring.resamples)
        numbers["control_vs_greedy"] = compared(measure, matched, others[GREEDY], scoring.resamples)
    return numbers


def few(pictures: int) -> list[str]:
    """What a number of pictures is too small for."""
    if pictures >= FEW:
        return []
    told = f"the intervals rest on {pictures} pictures and are too narrow"
    if pictures == 1:
        told = "all samples are of one picture, which gives no interval"
    return [told + (": no difference is told apart from chance." if pictures < LEAST else ".")]


def cost(records: Iterable[Record], greedy: Iterable[Record], resamples: int = RESAMPLES) -> dict[str, Any]:
    """Seconds, tokens and peak memory of the answers that were generated, and the speed as a ratio to greedy's.

    The ratio rests on the samples that both answered, less the first batch of each start where there are others: what
    an engine does once falls on the plan that is asked first. Its interval, resampled by picture, knows nothing of a
    machine that was busy with other things for a while.
    """
    own, base = ([r for r in answered(found) if "same_as" not in r] for found in (records, greedy))
    seconds, tokens = sum(r["seconds"] for r in own), sum(r["n_tokens"] for r in own)
    peaks = [r["peak_memory_mib"] for r in own if r.get("peak_memory_mib") is not None]
    ratio, interval = _speed_ratio(own, base, resamples)
    return {
        "seconds": seconds,
        "n_tokens": tokens,
        "tokens_per_second": tokens / seconds if seconds else None,
        "tokens_per_second_ratio": ratio,
        "tokens_per_second_ratio_ci": interval,
        "peak_memory_mib": max(peaks) if peaks else None,
    }


def _speed_ratio(own: Sequence[Record], base: Sequence[Record], resamples: int) -> tuple[float | None, Interval]:
    shared = {r["sample_id"] for r in own} & {r["sample_id"] for r in base}
    shared = shared - {r["sample_id"] for r in (*own, *base) if r.get("warming_up")} or shared
    if not shared:
        return None, [None, None]
    ours, theirs = (_paid([r for r in found if r["sample_id"] in shared]) for found in (own, base))
    value, interval = quotients(ours, theirs, _speed, resamples)["speed"]
    return number(value) or None, interval


def _paid(records: Sequence[Record]) -> Counts:
    return count(
        [r["image_id"] for r in records], [{"n_tokens": r["n_tokens"], "seconds": r["seconds"]} for r in records]
    )


def _speed(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    return {"speed": divide(sums["n_tokens"], sums["seconds"])}


def _place(shown: dict[str, Any], part: Part, block: dict[str, Any]) -> None:
    benchmark, split = part
    if split:
        shown.setdefault(benchmark, {})[split] = block
    else:
        shown[benchmark] = block


def _place_totals(shown: dict[str, Any]) -> None:
    """The numbers of a benchmark that rest on several splits."""
    for name, splits in shown.items():
        splits |= BENCHMARKS[name].total(splits)


def _flat(parts: Mapping[Any, Sequence[Record]]) -> list[Record]:
    return [record for found in parts.values() for record in found]
