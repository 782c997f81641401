"""What a server sends back: bodies within a limit, JSON, and its complaints in a few plain words."""

from __future__ import annotations

import json
import re
import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that another attempt may cure."""
LONGEST = 300  # characters of a server's own words
_UNSUPPORTED = re.compile(r"unsupported (?:parameter|value): '(\w+)'", re.IGNORECASE)
_GZIP_OR_ZLIB = 47  # zlib's window bits: either, told from the first bytes


class PassingError(RuntimeError):
    """A failure that another attempt may cure; `asked` is the wait in seconds that the server asked for."""

    def __init__(self, reason: str, asked: float | None = None) -> None:
        super().__init__(reason)
        self.asked = asked


class RefusedError(RuntimeError):
    """The server refuses a request for what stands in it."""


async def read(response: httpx.Response, limit: int) -> bytes:
    """The body, unpacked. No more than `limit` bytes are taken, and none unpacked beyond it, however well it packs.

    Raises:
        RuntimeError: a longer body, or one packed in a way that nobody asked for.
        zlib.error: one that is not packed as it says.
    """
    packing = response.headers.get("content-encoding", "identity").strip().lower()
    if packing not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise RuntimeError(f"an answer packed as {words(packing)!r}, which nobody asked for")
    unpacker = None if packing in ("", "identity") else zlib.decompressobj(_GZIP_OR_ZLIB)
    body, taken = bytearray(), 0
    async for chunk in response.aiter_raw():
        taken += len(chunk)
        body += chunk if unpacker is None else unpacker.decompress(chunk, limit + 1 - len(body))
        if max(taken, len(body)) > limit:
            raise RuntimeError(f"an answer of more than {limit} bytes, raise max_bytes if it should be that long")
    return bytes(body)


def parsed(response: httpx.Response, body: bytes) -> Any:
    """The JSON of a good answer.

    Raises:
        PassingError: a status that may pass, or a body that is no JSON.
        RefusedError: statuses 400 and 422, in the server's own words.
        RuntimeError: any other status.
    """
    status = response.status_code
    if status in PASSING:
        raise PassingError(_complaint(status, body), _asked(response))
    if response.is_redirect:
        target = words(response.headers.get("location", ""))
        raise RuntimeError(f"status {status}, a redirect to {target!r}: give that address if you trust it")
    if status in (400, 422):
        raise RefusedError(_with_cure(_complaint(status, body)))
    if not response.is_success:
        raise RuntimeError(_complaint(status, body) + (", set OPENAI_API_KEY" if status == 401 else ""))
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        start = words(body[:LONGEST].decode("utf-8", "replace"), 100)
        raise PassingError(f"an answer that is no JSON: {start!r}") from error


def words(text: object, longest: int = LONGEST) -> str:
    """What a server says, as one short line that a terminal and a file can take: no markup, no control characters."""
    told = str(text)[: 20 * longest]
    if told.lstrip().startswith("<"):
        told = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", told)
    plain = "".join(one if one.isprintable() else " " for one in told)  # half of a surrogate pair is not printable
    return " ".join(plain.split())[:longest]


def _complaint(status: int, body: bytes) -> str:
    try:
        told = json.loads(body)
        told = told.get("error", told)
        told = told["message"] if isinstance(told, dict) else told
    except (ValueError, KeyError, AttributeError, RecursionError):
        told = body[: 20 * LONGEST].decode("utf-8", "replace")
    return f"status {status} {words(told)}".strip()


def _with_cure(complaint: str) -> str:
    field = _UNSUPPORTED.search(complaint)
    return f'{complaint} (extra={{"{field[1]}": null}} leaves {field[1]} out)' if field else complaint


def _asked(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`, a number or a date; None without it, or where it is neither."""
    given = response.headers.get("retry-after", "")
    try:
        seconds = float(given)
    except ValueError:
        try:
            date = parsedate_to_datetime(given)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if isfinite(seconds) or seconds > 0 else None
