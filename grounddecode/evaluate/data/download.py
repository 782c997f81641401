"""Downloads that go on where they stopped, and are what they should be when they end."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path

BLOCK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 5

#: Called with bytes there and bytes in all.
Tell = Callable[[int, int], None]


def download(url: str, target: Path, size: int, checksum: str, tell: Tell | None = None, pause: float = 1.0) -> None:
    """Fetch a file into `target` through `target.part`, which a later call goes on with.

    Args:
        size: bytes of the whole file; 0: whatever comes.
        checksum: SHA-256 of the whole file; "": not compared.
        tell: called after every block.
        pause: seconds before a further attempt after a lost connection, doubled each time.

    Raises:
        ValueError: the file is not what it should be; what was fetched is removed.
        RuntimeError: the server cannot be reached, or refuses.
    """
    if checksum and target.is_file() and target.stat().st_size == size and digest(target) == checksum:
        return  # an archive whose unpacking was stopped
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _fetch(url, part, size, tell)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise RuntimeError(
                    f"{url} was refused with status {error.code}: try later, or fetch it by hand"
                ) from None
        except (OSError, HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise RuntimeError(
                    f"{url} cannot be fetched ({error}): the same call goes on where it stopped"
                ) from None
        time.sleep(pause * 2**attempt)
    found = digest(part) if checksum else ""
    if found != checksum:
        part.unlink()
        raise ValueError(f"{url} has the SHA-256 {found}, not {checksum}: it was damaged or has changed, try again")
    os.replace(part, target)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    made = sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            made.update(block)
    return made.hexdigest()


def _fetch(url: str, part: Path, size: int, tell: Tell | None) -> None:
    """Fetch what is missing of a file; raises OSError when the connection ends early."""
    there = part.stat().st_size if part.exists() else 0
    if size and there > size:
        part.unlink()
        there = 0
    if size and there == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        if there and answer.status != 206:  # a server without ranges sends the file from its start
            there = 0
        total = size or there + int(answer.headers.get("Content-Length") or 0)
        with open(part, "r+b" if there else "wb") as file:
            file.seek(there)
            while block := answer.read(BLOCK):
                file.write(block)
                there += len(block)
                if tell is not None:
                    tell(there, total)
            file.flush()
            os.fsync(file.fileno())
    if total and there < total:
        raise OSError(f"the connection ended after {there} of {total} bytes")
