"""How far the work is: counts, rate and remaining time, in a log and on a terminal."""

from __future__ import annotations

import pytest

from grounddecode.cli import progress as shown
from grounddecode.evaluate.run.keeping import Progress


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (40.4, "40 s"), (89, "89 s"), (90, "2 min"), (5940, "99 min"), (11100, "3 h 5 min")],
)
def test_lengths_of_time(seconds: float, said: str) -> None:
    assert shown.clock(seconds) == said


def test_a_log_says_rate_and_what_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with shown.Meter.shown("bench") as meter:
        meter.answers(Progress(20, 100, 0, "greedy", "pope", there=12))  # those of an earlier start are no speed
        now[0] = 120.0
        meter.answers(Progress(60, 100, 1, "avc", "pope"))
        now[0] = 140.0
        meter.answers(Progress(100, 100, 1, "avc", "chair", "a note"))
    assert capsys.readouterr().err.splitlines() == [
        "bench: 100 answers, 12 are there; Ctrl-C is safe, the same command continues",
        "bench: 60/100 avc on pope, 1 failed, 2/s, 20 s left",
        "bench: 100/100 avc on chair, 1 failed (a note)",
    ]


def test_a_terminal_gets_a_bar_with_the_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "150")
    now = [0.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    with shown.Meter.shown("bench") as meter:
        meter.answers(Progress(1, 9, 0, "greedy", "pope"))
        now[0] = 2.0
        meter.answers(Progress(5, 9, 0, "greedy", "pope"))
        meter._bars.refresh()
    err = capsys.readouterr().err
    assert "greedy on pope" in err
    assert "2/s" in err
