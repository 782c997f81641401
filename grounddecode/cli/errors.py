"""Errors at the command line: one sentence on stderr and an exit code, the traceback only on request."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from grounddecode.cli.streams import STREAMS, for_terminal
from grounddecode.secrets import hidden

if TYPE_CHECKING:
    import typer

BAD_INPUT = 2
INTERRUPTED, TERMINATED = 130, 143
LONGEST = 600  # characters of a message; foreign libraries write essays

DEBUG_VARIABLE = "GROUNDDECODE_DEBUG"
QUIET_VARIABLE = "GROUNDDECODE_QUIET"


def debugging() -> bool:
    """Whether tracebacks are wanted (`--debug`, or GROUNDDECODE_DEBUG in the environment)."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


def quiet() -> bool:
    """Whether nothing but results and errors is wanted (`--quiet`, or GROUNDDECODE_QUIET in the environment)."""
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


class Stopped(BaseException):
    """Somebody asked this process to stop. No error: nothing may catch it on the way as one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """For work that the same command continues: who stops it is told so."""
    told = f"stopped: what was answered is in {out}, and the same command continues"
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(INTERRUPTED, told) from None
    except Stopped as stopped:
        raise Stopped(stopped.code, told) from None


def guarded(app: typer.Typer, arguments: list[str]) -> int:
    """Run the application; every failure becomes a sentence on stderr and an exit code."""
    try:
        with _terminable():
            code = app(arguments, prog_name="grounddecode", standalone_mode=False)
    except KeyboardInterrupt:
        complain("stopped")
        return INTERRUPTED
    except Stopped as stopped:
        complain(str(stopped))
        return stopped.code
    except BrokenPipeError:
        # The reader (`| head`) has gone; without this the interpreter complains again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debugging():
            sys.stderr.write(hidden("".join(traceback.format_exception(error))))
        complain(sentence(error))
        return BAD_INPUT
    return code if isinstance(code, int) else 0


@contextmanager
def _terminable() -> Iterator[None]:
    """While the application runs, a request to end (SIGTERM) unwinds it as Ctrl-C does."""

    def stop(*_: object) -> None:
        raise Stopped(TERMINATED, "stopped")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread, where signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def complain(text: str) -> None:
    """One line on stderr, without secrets, with the name of the program as is the custom."""
    sys.stderr.write(f"grounddecode: {for_terminal(hidden(text))}\n")


def sentence(error: Exception) -> str:
    """The message of an error as one line; the type is named where it was not raised for the user."""
    format_message = getattr(error, "format_message", None)
    text = format_message() if callable(format_message) else str(error)
    text = _first_paragraph(text)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        cure = "" if error.filename in STREAMS else ", give another path"
        return f"{error.filename}: {error.strerror}{cure}"
    if callable(format_message) or isinstance(error, ValueError | RuntimeError | OSError):
        return text or type(error).__name__
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


def _first_paragraph(text: str) -> str:
    paragraph = text.strip().split("\n\n")[0]
    line = " ".join(paragraph.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
