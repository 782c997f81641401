"""The program of the speed table: what it cannot do is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.timing import speed


@pytest.mark.parametrize("more", [(), ("--out", "none.json")])
def test_memory_alone_needs_a_file_with_times(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--memory-alone", *more])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert capsys.readouterr().err.endswith(f"--out is {more[1] if more else None}: give one that is there\n")
