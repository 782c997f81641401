"""The command line: one module a group of commands, one sentence for every error."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

_MAY_BE_EMPTY = ("--prompt", "-p")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `grounddecode ARGUMENTS` (default: those of the process).

    Returns:
        The exit code: 0 done, 1 some samples failed, 2 bad usage or bad input, 130 interrupted.
    """
    from grounddecode.cli.app import app
    from grounddecode.cli.errors import BAD_INPUT, complain, guarded, sentence
    from grounddecode.cli.streams import streams

    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with streams():
            empty = _empty(given)
            if empty:
                complain(f"{empty} was given an empty value, give one or leave it out")
                return BAD_INPUT
            return guarded(app, given)
    except OSError as error:  # the last of the output, which is written here
        complain(sentence(error))
        return BAD_INPUT


def _empty(arguments: Sequence[str]) -> str:
    """The option (or "an argument") that has an empty value, which as a path would mean this folder; "" for none."""
    for before, value in zip(["", *arguments], arguments, strict=False):
        if not value.strip() and before not in _MAY_BE_EMPTY:
            return before if before.startswith("-") else "an argument"
        if re.fullmatch(r"--[a-z-]+=\s*", value) and value.rstrip("= ") not in _MAY_BE_EMPTY:
            return value.partition("=")[0]
    return ""
