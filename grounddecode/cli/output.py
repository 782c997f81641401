"""What the command line writes: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from grounddecode.cli.errors import complain, debugging, quiet
from grounddecode.cli.streams import encodable, for_terminal

if TYPE_CHECKING:
    from rich.console import Console


PIPE_WIDTH = 120  # columns where there is no terminal to ask


def width() -> int | None:
    """Columns of the terminal (or COLUMNS); None where results go to a file or a pipe, which take any line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None


def stdout() -> Console:
    """The console of results. Colours only on a terminal."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> Console:
    """The console of progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def write_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object, NaN refused: other programs read it."""
    write_line(json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2))


def write_line(text: str) -> None:
    """Print one line of plain text as a result. What a model said moves no cursor: a terminal gets it written out."""
    text = encodable(for_terminal(text) if sys.stdout.isatty() else text)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


@contextmanager
def results_only() -> Iterator[None]:
    """While the work is done, whatever libraries print goes to stderr, so that stdout carries the result alone.

    On the level of the file descriptor, because worker processes of an engine print too.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            _quieten()
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _quieten() -> None:
    """Only errors from the libraries underneath, and our own warnings in one line; everything when debugging."""
    if debugging():
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its decoders' complaints come as errors too
    warnings.filterwarnings("ignore", module=r"(torch|transformers|huggingface_hub)(\..*)?")
    warnings.showwarning = _warn


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    if not quiet():
        complain(f"warning: {' '.join(str(message).split())}")
