"""The streams of the process: always open, quiet when nobody reads them, and nothing in them that a terminal obeys."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STREAMS = ("standard input", "standard output", "standard error")
_HALF = re.compile("[\ud800-\udfff]")  # of a character: no encoding of a stream takes it
# What moves the cursor, changes colours or titles, or turns text around. Line ends and tabs are text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class _Reader(io.FileIO):
    """A file descriptor whose reader may go away (`| head`), which is no error; a full disk is one, and told once.

    What is written from then on leads nowhere.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                return super().write(data) or 0
            raise OSError(error.errno, error.strerror, STREAMS[self.fileno()]) from None


@contextmanager
def streams() -> Iterator[None]:
    """While the command runs: streams that the caller closed (`>&-`) lead nowhere, and so do those nobody reads.

    A closed one must not stay so: the next file that is opened would take its place. Streams that something else put
    in place (a test, a notebook) stay as they are.
    """
    for number, _ in enumerate(STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _stream(number: int, like: io.TextIOBase | None) -> io.TextIOWrapper:
    """A stream on a file descriptor, with the encoding of the one that it replaces (None where that was closed)."""
    raw = _Reader(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors=getattr(like, "errors", None) or "strict",
        line_buffering=number == 2 or raw.isatty(),
    )


def for_terminal(text: str) -> str:
    r"""Text whose control characters a terminal would obey, written out as JSON does: `\u001b[2J`."""
    return _CONTROL.sub(_escaped, text)


def encodable(text: str) -> str:
    r"""Text without halves of characters, which are written out as JSON does: `\ud800`."""
    return _HALF.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
