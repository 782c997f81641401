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
    rng = np.random.default_rng(seed)
    picked = rng.integers(clusters, size=(resamples, clusters))
    flat = picked + clusters * np.arange(resamples)[:, None]
    return np.bincount(flat.ravel(), minlength=resamples * clusters).reshape(resamples, clusters).astype(np.float64)


def point(counts: Counts, ratios: Ratios) -> dict[str, float]:
    """The ratios of all samples; NaN where undefined."""
    everything = np.ones((1, len(counts.clusters)))
    return {name: float(value[0]) for name, value in _ratios(everything, counts, ratios).items()}


def intervals(counts: Counts, ratios: Ratios, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Percentile intervals (95 %) of every ratio: `{name: [low, high]}`, None where it is never defined."""
    drawn = draws(len(counts.clusters), resamples, seed)
    return {name: _percentiles(value) for name, value in _ratios(drawn, counts, ratios).items()}


def differences(
    ours: Counts, theirs: Counts, ratios: Ratios, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, tuple[float, Interval]]:
    """`ours - theirs` for every ratio, and the interval of the difference: resamples draw the same pictures for both.

    Raises:
        ValueError: the two do not rest on the same pictures.
    """
    if set(ours.clusters) != set(theirs.clusters):
        raise ValueError("a paired difference needs the same pictures on both sides: leave out what one side lacks")
    drawn = draws(len(ours.clusters), resamples, seed)
    place = {cluster: at for at, cluster in enumerate(theirs.clusters)}
    aligned = Counts(ours.clusters, theirs.names, theirs.values[[place[cluster] for cluster in ours.clusters]])
    mine, yours = _ratios(drawn, ours, ratios), _ratios(drawn, aligned, ratios)
    at_point, other = point(ours, ratios), point(aligned, ratios)
    return {name: (at_point[name] - other[name], _percentiles(mine[name] - yours[name])) for name in mine}


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


def _ratios(weights: Floats, counts: Counts, ratios: Ratios) -> dict[str, Floats]:
    sums = weights @ counts.values
    return ratios({name: sums[:, at] for at, name in enumerate(counts.names)})


def _percentiles(values: Floats) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return [None, None]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(known, [tail, 100 - tail])
    return [float(low), float(high)]
