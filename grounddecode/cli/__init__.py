"""The command line: one module a group of commands, one sentence for every error."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `grounddecode ARGUMENTS` (default: those of the process).

    Returns:
        The exit code: 0 done, 1 some samples failed, 2 bad usage or bad input, 130 interrupted.
    """
    from grounddecode.cli.app import app
    from grounddecode.cli.errors import guarded

    return guarded(app, list(sys.argv[1:] if arguments is None else arguments))
