"""Every failure at the command line is one sentence and an exit code."""

from __future__ import annotations

import pytest
import typer

from grounddecode.cli.errors import BAD_INPUT, INTERRUPTED, LONGEST, guarded, sentence


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
        (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory"),
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


def test_essays_are_cut() -> None:
    assert len(sentence(ValueError("x" * 5000))) == LONGEST
    assert sentence(ValueError("x" * LONGEST)) == "x" * LONGEST
