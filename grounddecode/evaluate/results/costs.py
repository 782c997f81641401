"""What answers cost: seconds, tokens, memory, and the speed beside greedy's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grounddecode.evaluate.benchmarks.base import Record
from grounddecode.evaluate.folder.lines import question
from grounddecode.evaluate.intervals import RESAMPLES, Counts, Floats, Interval, count, divide, number, quotients


def answered(records: Iterable[Record]) -> list[Record]:
    """The records that hold an answer."""
    return [record for record in records if record["status"] == "ok"]


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
    shared = {question(r) for r in own} & {question(r) for r in base}
    shared = shared - {question(r) for r in (*own, *base) if r.get("warming_up")} or shared
    if not shared:
        return None, [None, None]
    ours, theirs = (_paid([r for r in found if question(r) in shared]) for found in (own, base))
    value, interval = quotients(ours, theirs, _speed, resamples)["speed"]
    return number(value) or None, interval


def _paid(records: Sequence[Record]) -> Counts:
    return count(
        [r["image_id"] for r in records], [{"n_tokens": r["n_tokens"], "seconds": r["seconds"]} for r in records]
    )


def _speed(sums: Mapping[str, Floats]) -> dict[str, Floats]:
    return {"speed": divide(sums["n_tokens"], sums["seconds"])}
