"""Bootstrap intervals against a plain loop, and by hand."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from grounddecode.evaluate import intervals as module
from grounddecode.evaluate.intervals import (
    FEW,
    Interval,
    count,
    differences,
    divide,
    draws,
    harmonic,
    intervals,
    number,
    point,
    quotients,
    verdict,
)


def share(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"share": divide(sums["hits"], sums["n"])}


def rows(*hits: float) -> list[dict[str, float]]:
    return [{"hits": hit, "n": 1} for hit in hits]


def test_counts_are_sums_by_picture_in_an_order_of_their_own() -> None:
    counts = count([7, 3, 7], [{"hits": 1, "n": 1}, {"hits": 0, "n": 1}, {"hits": 1, "n": 2}])
    assert counts.clusters == (3, 7)
    assert counts.names == ("hits", "n")
    assert counts.values.tolist() == [[0, 1], [2, 3]]
    assert point(counts, share) == {"share": 0.5}  # 2 of 4: a ratio of sums, not a mean of ratios


def test_draws_are_with_replacement_and_complete() -> None:
    drawn = draws(5, 2000, seed=1)
    assert drawn.shape == (2000, 5)
    assert (drawn.sum(axis=1) == 5).all()
    assert drawn.max() >= 3
    assert drawn.mean(axis=0) == pytest.approx([1] * 5, abs=0.08)
    assert (drawn == draws(5, 2000, seed=1)).all()
    assert (drawn != draws(5, 2000, seed=2)).any()


def test_intervals_equal_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(12, size=60).tolist()
    hits = rng.integers(2, size=60).tolist()
    (low, high) = intervals(count(clusters, rows(*hits)), share, resamples=400, seed=5)["share"]
    by_picture = {c: [h for h, k in zip(hits, clusters, strict=True) if k == c] for c in sorted(set(clusters), key=str)}
    found = []
    for drawn in draws(len(by_picture), 400, seed=5):
        picked = [h for times, group in zip(drawn, by_picture.values(), strict=True) for h in group * int(times)]
        found.append(sum(picked) / len(picked))
    assert [low, high] == pytest.approx(np.percentile(found, [2.5, 97.5]).tolist(), abs=1e-12)


def test_the_interval_has_the_width_that_theory_gives() -> None:
    rng = np.random.default_rng(3)
    hits = (rng.random(2000) < 0.3).astype(float)
    low, high = intervals(count(range(2000), rows(*hits)), share, resamples=4000)["share"]
    wide = 2 * 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    assert high - low == pytest.approx(wide, rel=0.06)


def test_pictures_are_the_clusters_not_samples() -> None:
    # Ten samples a picture that all agree are no more than one sample a picture.
    hits = [float(at % 2) for at in range(40)]
    single = intervals(count(range(40), rows(*hits)), share)["share"]
    tenfold = intervals(count([at // 10 for at in range(400)], rows(*(hits[at // 10] for at in range(400)))), share)
    assert tenfold["share"] == pytest.approx(single)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(4)
    theirs = rng.integers(2, size=200).astype(float)
    ours = theirs.copy()
    ours[:20] = 1 - ours[:20]
    ours[:20] = np.maximum(ours[:20], theirs[:20])  # only ever better
    one, two = count(range(200), rows(*ours)), count(range(200), rows(*theirs))
    value, (low, high) = differences(one, two, share)["share"]
    assert value == pytest.approx((ours - theirs).mean())
    separate = intervals(one, share)["share"]
    assert high - low < 0.6 * (separate[1] - separate[0])
    assert low > 0
    # The order of the pictures on the other side does not matter.
    backwards = count(range(199, -1, -1), rows(*theirs[::-1]))
    assert differences(one, backwards, share)["share"] == (value, [low, high])
    assert differences(one, one, share)["share"] == (0.0, [0.0, 0.0])


def test_a_paired_difference_needs_the_same_pictures() -> None:
    with pytest.raises(ValueError, match="same pictures on both sides"):
        differences(count([1, 2], rows(1, 0)), count([1, 3], rows(1, 0)), share)


def test_undefined_ratios_are_left_out() -> None:
    counts = count([1, 2, 3], [{"hits": 0, "n": 0}, {"hits": 1, "n": 2}, {"hits": 2, "n": 2}])
    assert intervals(counts, share, resamples=200)["share"] == [
        0.5,
        1.0,
    ]  # those that draw only picture 1 have no ratio
    nothing = count([1], [{"hits": 0, "n": 0}])
    assert intervals(nothing, share, resamples=5)["share"] == [None, None]
    assert number(point(nothing, share)["share"]) is None
    assert number(0.25) == 0.25


def shares(*hits: float) -> Interval:
    return intervals(count(range(len(hits)), rows(*hits)), share, resamples=200)["share"]


def test_one_picture_gives_no_interval() -> None:
    assert shares(1.0) == [None, None]
    one, two = count([1], rows(1.0)), count([1], rows(0.0))
    assert differences(one, two, share, resamples=50)["share"] == (1.0, [None, None])
    assert differences(one, one, share, resamples=50)["share"] == (0.0, [None, None])


def test_pictures_that_agree_give_an_interval_only_where_they_are_many() -> None:
    assert shares(*[1.0] * (FEW - 1)) == [None, None]
    assert shares(*[1.0] * FEW) == [1.0, 1.0]
    # One picture of forty has the ratio at all: forty resamples of a hundred have none.
    alone = [{"hits": 0, "n": 0}] * 39 + [{"hits": 1, "n": 2}]
    assert intervals(count(range(40), alone), share, resamples=200)["share"] == [None, None]


def test_what_is_the_same_on_both_sides_differs_by_nothing_for_sure() -> None:
    one, two = count([1, 2], rows(1.0, 1.0)), count([1, 2], rows(1.0, 0.0))
    assert differences(two, two, share, resamples=50)["share"] == (0.0, [0.0, 0.0])
    assert differences(one, one, share, resamples=50)["share"] == (0.0, [0.0, 0.0])
    assert differences(one, count([1, 2], rows(0.0, 0.0)), share, resamples=50)["share"] == (1.0, [None, None])


def test_quotients_are_paired() -> None:
    ours = count(range(30), [{"hits": 2 * (1 + at), "n": 1} for at in range(30)])
    theirs = count(range(30), [{"hits": 1 + at + at % 2, "n": 1} for at in range(30)])
    value, (low, high) = quotients(ours, theirs, share, resamples=500)["share"]
    assert value == pytest.approx(2 * 465 / 480)
    assert 1.85 < low < value < high < 2.0


def test_many_resamples_are_drawn_in_parts_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    counts = count(range(50), rows(*rng.integers(2, size=50).astype(float)))
    whole = intervals(counts, share, resamples=333, seed=9)
    monkeypatch.setattr(module, "_CELLS", 1000)
    assert intervals(counts, share, resamples=333, seed=9) == whole


def test_divide_and_harmonic() -> None:
    assert divide(np.array([1.0, 1.0]), np.array([4.0, 0.0])).tolist() == pytest.approx([0.25, np.nan], nan_ok=True)
    assert harmonic(np.array([0.5]), np.array([0.25])).tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize(
    ("interval", "higher", "said"),
    [
        ([0.01, 0.2], True, "better"),
        ([0.01, 0.2], False, "worse"),
        ([-0.2, -0.01], False, "better"),
        ([-0.2, -0.01], True, "worse"),
        ([0.0, 0.2], True, ""),
        ([-0.2, 0.0], False, ""),
        ([-0.1, 0.1], True, ""),
        ([0.1, 0.2], None, ""),
        ([None, None], True, ""),
    ],
)
def test_verdicts(interval: list[float | None], higher: bool | None, said: str) -> None:
    assert verdict(interval, higher) == said


def test_ten_methods_take_little_time() -> None:
    counts = [count([at // 6 for at in range(3000)], rows(*([1.0] * 3000))) for _ in range(10)]
    begin = time.process_time()
    for one in counts:
        intervals(one, share, 1000)
        differences(one, counts[0], share, 1000)
    assert time.process_time() - begin < 4
