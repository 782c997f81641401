"""Plots of tables: what they show is what the table says."""

from __future__ import annotations

import re

import pytest

from grounddecode.evaluate.benchmarks.base import Column
from grounddecode.evaluate.results.tables import Cell, Row, Table
from grounddecode.report.plots import forest, scatter

COLUMNS = (Column("chair_i", "CHAIR_i", 100.0), Column("recall", "recall", 100.0))
GREEDY = Row("greedy", {"chair_i": Cell(0.14, [0.1, 0.18]), "recall": Cell(0.8, [0.78, 0.82])})


def table(*rows: Row, benchmark: str = "chair", split: str = "") -> Table:
    return Table(benchmark, split, "CHAIR", COLUMNS, rows)


def method(label: str, difference: float, low: float, high: float, verdict: str, of: str = "") -> Row:
    return Row(label, {"chair_i": Cell(0.14 + difference, None, difference, [low, high], verdict)}, of=of)


def test_a_difference_stands_where_it_is() -> None:
    shown = forest(
        table(GREEDY, method("avc", -0.04, -0.08, 0.0, "better"), method("greedy cut", 0.02, 0.0, 0.04, "", "avc"))
    )
    bars = [(float(a), float(b)) for a, b in re.findall(r'class="bar" style="left:([\d.]+)%;width:([\d.]+)%"', shown)]
    dots = [float(at) for at in re.findall(r'class="dot" style="left:([\d.]+)%"', shown)]
    reach = 1.08 * 0.08
    assert bars[0] == pytest.approx((50 - 50 * 0.08 / reach, 50 * 0.08 / reach), abs=0.01)
    assert bars[1] == pytest.approx((50, 50 * 0.04 / reach), abs=0.01)
    assert dots == pytest.approx([50 - 50 * 0.04 / reach, 50 + 50 * 0.02 / reach], abs=0.01)
    assert "-4.0 [-8.0, +0.0]" in shown
    assert 'class="line better"' in shown
    assert 'class="line control"' in shown
    assert "left is better" in shown


def test_what_was_compared_with_nothing_is_not_drawn() -> None:
    assert forest(table(GREEDY)) == ""
    unknown = Row("avc", {"chair_i": Cell(0.1, None, 0.1, [None, None])})
    assert forest(table(GREEDY, unknown)) == ""


def test_recall_against_chair_has_its_scale() -> None:
    right = Row("avc", {"chair_i": Cell(0.18), "recall": Cell(0.82)})
    shown = scatter(table(GREEDY, right))
    (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', shown)]
    ticks = re.findall(r'<text x="([\d.]+)" y="\d+\.0" text-anchor="middle">([\d.]+)</text>', shown)
    scale = (float(ticks[-1][0]) - float(ticks[0][0])) / (float(ticks[-1][1]) - float(ticks[0][1]))
    assert x2 - x1 == pytest.approx(2 * scale, rel=0.01)
    assert [tick for _, tick in ticks] == ["78", "79", "80", "81", "82"]
    assert y2 < y1  # more CHAIR_i is higher up
    assert "<b>1</b> greedy" in shown
    assert scatter(Table("pope", "random", "POPE", (Column("accuracy", "accuracy", 100.0),), ())) == ""


def test_points_at_one_place_are_told_apart() -> None:
    same = Row("locore", dict(GREEDY.cells))
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', scatter(table(GREEDY, same, same)))
    assert len(set(places)) == 3


def test_names_cannot_become_markup() -> None:
    evil = '"><script>'
    row = Row(evil, {"chair_i": Cell(0.1, None, 0.1, [0.0, 0.2]), "recall": Cell(0.1)})
    assert "<script>" not in forest(table(row)) + scatter(table(row))
