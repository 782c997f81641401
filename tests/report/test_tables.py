"""Numbers of a run as text: percentages, signs, verdicts, and the control that a hollow gain must beat."""

from __future__ import annotations

from typing import Any

import pytest

from grounddecode.report.tables import CAPTIONS, Cell, tables


def chair(words: float, chair_i: float, **more: Any) -> dict[str, Any]:
    numbers = dict.fromkeys(CAPTIONS, 0.5) | {"words": words, "chair_i": chair_i, "n": 200}
    return numbers | {"ci": {"chair_i": [chair_i - 0.0151, chair_i + 0.02]}} | more


def against(difference: float, low: float, high: float, verdict: str) -> dict[str, Any]:
    return {"chair_i": {"difference": difference, "ci": [low, high], "verdict": verdict}}


def results(control_verdict: str, control_words: float = 24.0) -> dict[str, Any]:
    avc = chair(
        24.0,
        0.1,
        vs_greedy=against(-0.0449, -0.0612, -0.0204, "better"),
        control=dict.fromkeys(CAPTIONS, 0.25) | {"words": control_words},
        vs_control=against(-0.01, -0.02, -0.001, control_verdict),
    )
    return {"greedy": {"chair": chair(31.2, 0.1449)}, "avc": {"chair": avc}}


def cell(table_rows: Any, row: int, name: str) -> Cell:
    found = table_rows[row][1 + list(CAPTIONS).index(name)]
    assert isinstance(found, Cell)
    return found


def test_greedy_has_its_interval_and_a_method_its_difference() -> None:
    (table,) = tables(results("better"))
    assert cell(table.rows, 0, "chair_i") == Cell("14.5", "[13.0, 16.5]")
    assert cell(table.rows, 1, "chair_i") == Cell("10.0*", "-4.5\n[-6.1, -2.0]", "better")
    assert cell(table.rows, 1, "words") == Cell("24.0")
    assert "200 pictures" in table.caption


def test_a_gain_that_the_control_has_too_gets_no_star() -> None:
    for verdict in ("", "worse"):
        (table,) = tables(results(verdict))
        assert cell(table.rows, 1, "chair_i") == Cell("10.0", "-4.5\n[-6.1, -2.0]", "better")


@pytest.mark.parametrize(("words", "shown"), [(24.0, True), (30.8, True), (31.0, False), (31.2, False)])
def test_the_control_has_a_row_where_it_was_cut(words: float, shown: bool) -> None:
    (table,) = tables(results("better", control_words=words))
    names = [row[0].text for row in table.rows]
    assert names == ["greedy", "avc", *(["greedy, as short as avc"] if shown else [])]


def test_splits_stand_side_by_side_random_first() -> None:
    part = {"accuracy": 0.9, "f1": None, "yes_ratio": 0.5, "n": 600}
    (table,) = tables({"greedy": {"pope": {"adversarial": {**part, "accuracy": 0.8}, "random": part}}})
    assert [heading.split("\n")[0] for heading in table.columns[1:]] == ["random"] * 3 + ["adversarial"] * 3
    assert [one.text for one in table.rows[0]] == ["greedy", "90.0", "-", "50.0", "80.0", "-", "50.0"]
    assert table.caption.startswith("POPE, 600 yes/no questions")


def test_zero_has_no_sign() -> None:
    block = chair(10.0, 0.1, vs_greedy=against(-0.0004, -0.0004, 0.0006, ""))
    (table,) = tables({"avc": {"chair": block}})
    assert cell(table.rows, 0, "chair_i").detail == "0.0\n[0.0, +0.1]"


def test_cost_stands_beside_greedy() -> None:
    cost = {"tokens_per_second": 80.4, "tokens_per_second_ratio": 0.614, "peak_memory_mib": None}
    (table,) = tables({"avc": {"cost": cost}})
    assert [one.text for one in table.rows[0]] == ["avc", "80", "0.61x", "-"]


def test_nothing_measured_is_no_table() -> None:
    assert tables({}) == []
    assert tables({"greedy": {}}) == []
