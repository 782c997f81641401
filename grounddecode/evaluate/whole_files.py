"""Files that are whole or not there: written beside the old one, then renamed over it."""

from __future__ import annotations

import os
import re
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


def write_whole(path: Path, content: bytes, mode: int = PUBLIC) -> None:
    """Replace a file at once; whatever goes wrong, the old one stays and nothing is left beside it.

    Raises:
        OSError: a folder that cannot be written or is full; it names the file.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def drop_stale(path: Path) -> None:
    """Take away what killed processes have left beside a file; only for whom nobody else writes it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+")
    for beside in path.parent.iterdir():
        if name.fullmatch(beside.name) and beside.is_file() and not beside.is_symlink():
            beside.unlink(missing_ok=True)
