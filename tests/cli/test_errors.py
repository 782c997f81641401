"""Every failure at the command line is one sentence and an exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from grounddecode.cli import main
from grounddecode.cli.errors import BAD_INPUT, INTERRUPTED, LONGEST, TERMINATED, guarded, sentence
from tests.cli.conftest import ROOT


def run(error: BaseException | None, code: int | None = None) -> int:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        if error is not None:
            raise error
        if code is not None:
            raise typer.Exit(code)

    return guarded(app, [])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("alpha is -1, give at least 0"), "alpha is -1, give at least 0"),
        (RuntimeError("first line\nsecond line\n\nan essay"), "first line second line"),
        (
            FileNotFoundError(2, "No such file or directory", "a.png"),
            "a.png: No such file or directory, give another path",
        ),
        (OSError("image file is truncated"), "image file is truncated"),
        (KeyError("samples"), "unexpected KeyError: 'samples' (--debug shows where)"),
        (ValueError(), "ValueError"),
    ],
)
def test_an_error_becomes_one_sentence(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GROUNDDECODE_DEBUG", raising=False)
    assert run(error) == BAD_INPUT
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"grounddecode: {said}\n")


def test_debugging_shows_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDDECODE_DEBUG", "1")
    assert run(ValueError("bad")) == BAD_INPUT
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("grounddecode: bad\n")


def test_exit_codes() -> None:
    assert run(None) == 0
    assert run(None, code=1) == 1
    assert run(KeyboardInterrupt()) == INTERRUPTED


def _heeds_ctrl_c() -> None:
    """A run of tests in the background ignores Ctrl-C, and its children with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
@pytest.mark.parametrize("when", ["answering", "starting"])
def test_a_stopped_bench_says_that_the_same_command_continues(
    tmp_path: Path, number: signal.Signals, code: int, when: str
) -> None:
    command = [sys.executable, "-m", "grounddecode", "bench", "--model", "lab", "--benchmarks", "chair"]
    command += ["--max-new-tokens", "8", "--batch-size", "2", "--limit", "80", "--resamples", "5"]
    command += ["--out", str(tmp_path / "run")]
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_heeds_ctrl_c
    )
    awaited = tmp_path / "run" / ("samples.jsonl" if when == "answering" else "run.json")
    deadline = time.monotonic() + 300
    while child.poll() is None and time.monotonic() < deadline:
        if awaited.exists() and awaited.stat().st_size:
            break
        time.sleep(0.01)
    child.send_signal(number)
    out, err = child.communicate(timeout=300)
    assert (child.returncode, out) == (code, ""), err
    told = f"grounddecode: stopped: what was answered is in {tmp_path / 'run'}, and the same command continues"
    assert [line for line in err.splitlines() if line.startswith("grounddecode")] == [told]
    if when == "answering":
        held = (tmp_path / "run" / "samples.jsonl").read_bytes()
        assert held.endswith(b"\n")
        assert main(command[3:]) == 0
        assert (tmp_path / "run" / "samples.jsonl").read_bytes().startswith(held)


def test_essays_are_cut() -> None:
    assert len(sentence(ValueError("x" * 5000))) == LONGEST
    assert sentence(ValueError("x" * LONGEST)) == "x" * LONGEST
