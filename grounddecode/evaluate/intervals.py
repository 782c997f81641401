"""Bootstrap intervals of ratios, clustered by picture, and paired differences on the same resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
#: Sums of counts by name, each of shape (resamples,), to ratios by name; an undefined ratio is NaN.
Ratios = Callable[[Mapping[str, Floats]], dict[str, Floats]]
Interval = list[float | None]

RESAMPLES, LEVEL, SEED = 1000, 0.95, 0
MOST_RESAMPLES = 100_000  # more change no digit that is shown
#: With fewer clusters no verdict: were all differences of one sign, chance alone would do that in 2 of 2^5 cases.
LEAST = 6
FEW = 20  #: with fewer clusters percentile intervals are too narrow to be taken at their word
_CELLS = 1 << 22  # of the drawn weights held at a time


@dataclass(frozen=True)
class Counts:
    """Sums over the samples of each picture: `values` has the shape (pictures, names)."""

    clusters: tuple[Any, ...]
    names: tuple[str, ...]
    values: Floats


def count(clusters: Sequence[Any], rows: Sequence[Mapping[str, float]]) -> Counts:
    """Add up rows of counts by cluster; the order of the rows does not matter.

    Args:
        clusters: one key a row (the picture it belongs to).
        rows: the same names in each.
    """
    places = {cluster: at for at, cluster in enumerate(sorted(set(clusters), key=str))}
    names = tuple(rows[0]) if rows else ()
    values = np.zeros((len(places), len(names)))
    if rows:
        flat = np.array([[float(row[name]) for name in names] for row in rows])
        np.add.at(values, [places[cluster] for cluster in clusters], flat)
    return Counts(tuple(places), names, values)


def draws(clusters: int, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """How often each cluster is drawn in each resample, with replacement: (resamples, clusters)."""
    return _drawn(np.random.default_rng(seed), clusters, resamples)


def _drawn(rng: np.random.Generator, clusters: int, resamples: int) -> Floats:
    picked = rng.integers(clusters, size=(resamples, clusters))
    flat = picked + clusters * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(np.float64)


def point(counts: Counts, ratios: Ratios) -> dict[str, float]:
    """The ratios of all samples; NaN where undefined."""
    return {name: float(value[0]) for name, value in ratios(_named(counts, counts.values.sum(axis=0)[None])).items()}


def intervals(counts: Counts, ratios: Ratios, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Percentile intervals (95 %) of every ratio: `{name: [low, high]}`.

    [None, None] where the resamples say nothing about chance: the ratio is never defined, or they all agree for want of
    clusters (one alone, fewer than `FEW`, or so few with that ratio that some resamples have none).
    """
    (sums,) = _resampled([counts], resamples, seed)
    return {name: _percentiles(value, len(counts.clusters)) for name, value in ratios(sums).items()}


def differences(
    ours: Counts, theirs: Counts, ratios: Ratios, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, Interval]]:
    """`ours - theirs` for every ratio, and the interval of the difference: resamples draw the same pictures for both.

    The interval is as in `intervals`, and [0, 0] where several clusters give the same on both sides.

    Raises:
        ValueError: the two do not rest on the same pictures.
    """
    return _compared(ours, theirs, ratios, np.subtract, resamples, seed)


def quotients(
    ours: Counts, theirs: Counts, ratios: Ratios, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, Interval]]:
    """`ours / theirs` for every ratio, otherwise as `differences`."""
    return _compared(ours, theirs, ratios, divide, resamples, seed)


def _compared(
    ours: Counts,
    theirs: Counts,
    ratios: Ratios,
    compare: Callable[[Floats, Floats], Floats],
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, Interval]]:
    if set(ours.clusters) != set(theirs.clusters):
        raise ValueError("a paired difference needs the same pictures on both sides: leave out what one side lacks")
    place = {cluster: at for at, cluster in enumerate(theirs.clusters)}
    aligned = Counts(ours.clusters, theirs.names, theirs.values[[place[cluster] for cluster in ours.clusters]])
    mine, yours = map(ratios, _resampled([ours, aligned], resamples, seed))
    at_point, other = (ratios(_named(one, one.values.sum(axis=0)[None])) for one in (ours, aligned))
    clusters = len(ours.clusters)
    found = {}
    for name, values in mine.items():
        same = clusters > 1 and np.array_equal(values, yours[name], equal_nan=True)
        interval = _percentiles(compare(values, yours[name]), FEW if same else clusters)
        found[name] = float(compare(at_point[name], other[name])[0]), interval
    return found


def verdict(interval: Interval, higher_is_better: bool | None) -> str:
    """`better` or `worse` when the interval lies on one side of 0; "" otherwise, and for what has no direction."""
    low, high = interval
    if higher_is_better is None or low is None or high is None or low <= 0 <= high:
        return ""
    return "better" if (low > 0) == higher_is_better else "worse"


def divide(part: Floats, whole: Floats) -> Floats:
    """`part / whole`, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole != 0)


def harmonic(one: Floats, two: Floats) -> Floats:
    """`2ab / (a + b)`, NaN where undefined."""
    return divide(2 * one * two, one + two)


def number(value: float) -> float | None:
    """A float for JSON: None instead of NaN."""
    return None if np.isnan(value) else float(value)


def _resampled(sides: Sequence[Counts], resamples: int, seed: int) -> list[dict[str, Floats]]:
    """The sums of each side over the same resamples, which are drawn a part at a time: any number fits into memory."""
    rng, clusters = np.random.default_rng(seed), len(sides[0].clusters)
    part = max(1, _CELLS // max(1, clusters))
    sums: list[list[Floats]] = [[] for _ in sides]
    for start in range(0, resamples, part):
        weights = _drawn(rng, clusters, min(part, resamples - start))
        for side, found in zip(sides, sums, strict=True):
            found.append(weights @ side.values)
    return [_named(side, np.concatenate(found)) for side, found in zip(sides, sums, strict=True)]


def _named(counts: Counts, sums: Floats) -> dict[str, Floats]:
    return {name: sums[:, at] for at, name in enumerate(counts.names)}


def _percentiles(values: Floats, clusters: int) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return [None, None]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(known, [tail, 100 - tail])
    agree = high - low <= 1e-12 * max(1.0, abs(low))  # rounding aside
    if agree and (clusters < FEW or known.size < values.size):
        return [None, None]
    return [float(low), float(high)]
